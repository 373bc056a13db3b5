"""Records the log-mel front end and a tiny Whisper checkpoint, for tests/models/test_audio.

python tests/golden/record_audio.py
"""

import numpy as np
import torch
import transformers
from record_tiny import HERE, padded, randomise, record


def audio() -> list[np.ndarray]:
    """Two sounds of one second or less, at 16 kHz."""
    time = np.arange(16000) / 16000
    chirp = 0.5 * np.sin(2 * np.pi * (200 * time + 900 * time**2))
    noise = 0.1 * np.random.default_rng(0).normal(size=9000) + 0.2 * np.sin(2 * np.pi * 440 * time[:9000])
    return [chirp.astype(np.float32), noise.astype(np.float32)]


def main() -> None:
    """Records both."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    mels = {}
    for bins in (8, 80, 128):
        extractor = transformers.WhisperFeatureExtractor(feature_size=bins, chunk_length=1)
        features = extractor(audio(), sampling_rate=16000, return_tensors="np")["input_features"]
        mels[f"features/{bins}"] = features if bins == 8 else features[:, :, ::9]
        mels[f"filters/{bins}"] = extractor.mel_filters[::7]
    np.savez_compressed(HERE / "log_mel.npz", chirp=audio()[0], noise=audio()[1], **mels)
    config = transformers.WhisperConfig(
        vocab_size=64, num_mel_bins=8, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_source_positions=50,
        max_target_positions=24, decoder_start_token_id=1, pad_token_id=2, bos_token_id=2, eos_token_id=2,
        suppress_tokens=None, begin_suppress_tokens=None, attn_implementation="eager",
    )  # fmt: skip
    model = randomise(transformers.WhisperForConditionalGeneration(config))
    features = torch.tensor(mels["features/8"])
    labels, mask = padded([9, 6], 64, 2, seed=4)
    start = torch.ones_like(labels[:, :1])
    outputs = model(
        input_features=features, decoder_input_ids=torch.cat([start, labels[:, :-1]], 1), output_hidden_states=True
    )
    wanted = {"encoder": outputs.encoder_last_hidden_state, "logits": outputs.logits}
    with torch.no_grad():
        tokens = torch.cat([start, start + 4], dim=1)
        for _ in range(10):
            step = model(input_features=features, decoder_input_ids=tokens).logits[:, -1]
            tokens = torch.cat([tokens, step.argmax(-1, keepdim=True)], dim=1)
    gradients = (
        "model.encoder.conv2.weight", "model.decoder.layers.0.encoder_attn.k_proj.weight",
        "model.decoder.embed_tokens.weight",
    )  # fmt: skip
    inputs = {"input_features": features, "labels": labels}
    record("tiny_whisper", model, inputs, wanted, "logits", mask[..., None], gradients, greedy=tokens[:, 2:])


if __name__ == "__main__":
    main()
