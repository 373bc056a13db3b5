"""Records tiny ViT, DINOv2, CLIP, SigLIP, LLaVA and PaliGemma checkpoints, for tests/models/test_vision_reference.

python tests/golden/record_vision.py
"""

import torch
import transformers
from record_tiny import padded, randomise, record

VOCABULARY = 64
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": 4}
EAGER = {"attn_implementation": "eager"}
IMAGE = {"image_size": 16, "patch_size": 4, "num_channels": 3}


def images(count: int = 2, size: int = 16) -> torch.Tensor:
    """Random images, channels first."""
    return torch.rand((count, 3, size, size), generator=torch.Generator().manual_seed(11))


def classifiers() -> None:
    """ViT with a classifier; DINOv2 with layer scales, with either MLP."""
    vit = transformers.ViTConfig(**SIZES, **IMAGE, **EAGER, num_labels=3)
    model = randomise(transformers.ViTForImageClassification(vit))
    outputs = model(images(), output_hidden_states=True)
    wanted = {f"hidden/{i}": hidden for i, hidden in enumerate(outputs.hidden_states)} | {"logits": outputs.logits}
    gradients = ("vit.embeddings.patch_embeddings.projection.weight", "vit.embeddings.position_embeddings")
    record("tiny_vit", model, {"pixel_values": images()}, wanted, "logits", torch.ones(1), gradients)
    for name, swiglu in (("tiny_dinov2", False), ("tiny_dinov2_swiglu", True)):
        sizes = {key: value for key, value in SIZES.items() if key != "intermediate_size"}
        dinov2 = transformers.Dinov2Config(**sizes, **IMAGE, **EAGER, mlp_ratio=2, use_swiglu_ffn=swiglu)
        model = randomise(transformers.Dinov2Model(dinov2))
        outputs = model(images(), output_hidden_states=True)
        wanted = {"last": outputs.last_hidden_state, "hidden/1": outputs.hidden_states[1]}
        gradients = ("embeddings.cls_token", "encoder.layer.0.layer_scale1.lambda1")
        record(name, model, {"pixel_values": images()}, wanted, "last", torch.ones(1), gradients)


def towers() -> None:
    """CLIP and SigLIP: features of both towers and the similarity logits."""
    for name, module, eos in (("tiny_clip", "CLIP", 63), ("tiny_siglip", "Siglip", 1)):
        text = {**SIZES, **EAGER, "vocab_size": VOCABULARY, "max_position_embeddings": 12, "eos_token_id": eos}
        text |= {"hidden_size": 24, "intermediate_size": 40} if module == "CLIP" else {"projection_size": 32}
        extra = {"projection_dim": 20} if module == "CLIP" else {}
        config = getattr(transformers, f"{module}Config")(
            text_config=text, vision_config={**SIZES, **IMAGE, **EAGER}, **extra, **EAGER
        )
        model = randomise(getattr(transformers, f"{module}Model")(config))
        ids, mask = padded([9, 6, 3], VOCABULARY - 1, 0 if module == "CLIP" else 1)
        if module == "CLIP":
            ids[torch.arange(3), mask.sum(1) - 1] = eos
        inputs = {"input_ids": ids, "pixel_values": images()} | ({"attention_mask": mask} if module == "CLIP" else {})
        outputs = model(**inputs)
        image = model.get_image_features(images())
        texts = model.get_text_features(**{key: value for key, value in inputs.items() if key != "pixel_values"})
        image, texts = (x if torch.is_tensor(x) else x.pooler_output for x in (image, texts))
        wanted = {"logits": outputs.logits_per_image, "image": image, "text": texts}
        gradients = ("logit_scale", "text_model.embeddings.token_embedding.weight") + (
            ("visual_projection.weight", "vision_model.embeddings.class_embedding")
            if module == "CLIP"
            else ("vision_model.head.probe", "vision_model.head.attention.in_proj_weight")
        )
        found = dict(model.named_parameters())
        gradients = tuple(key for key in gradients if key in found)
        record(name, model, inputs, wanted, "logits", torch.ones(1), gradients)


def with_images(name: str, model, prompt: list[list[int]], image_token: int, count: int, gradients, **inputs) -> None:
    """Logits and greedy tokens of prompts that begin with an image."""
    ids = torch.tensor([[2, *[image_token] * count, *row] for row in prompt])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": images()} | inputs
    model = randomise(model)
    outputs = model(**batch, output_hidden_states=True)
    logits = outputs.logits
    with torch.no_grad():
        tokens = ids
        for _ in range(10):
            # The prompt is a prefix, what is generated is not.
            types = (torch.arange(tokens.shape[1]) >= ids.shape[1]).long().expand_as(tokens)
            more = {"token_type_ids": types} if "token_type_ids" in inputs else {}
            step = model(input_ids=tokens, pixel_values=images(), attention_mask=torch.ones_like(tokens), **more)
            tokens = torch.cat([tokens, step.logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    wanted = {"logits": logits}
    record(name, model, batch, wanted, "logits", torch.ones(1), gradients, greedy=tokens[:, ids.shape[1] :])


def vision_language() -> None:
    """LLaVA over CLIP and Llama; PaliGemma over SigLIP and Gemma."""
    prompt = [[5, 9, 23, 41, 7], [31, 8, 8, 50, 12]]
    clip = transformers.CLIPVisionConfig(**{**SIZES, "num_hidden_layers": 3}, **IMAGE, projection_dim=20)
    text = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    grouped = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    llama = transformers.LlamaConfig(**text, **grouped, tie_word_embeddings=False)
    config = transformers.LlavaConfig(
        vision_config=clip, text_config=llama, image_token_index=60, vision_feature_layer=-2,
        vision_feature_select_strategy="default", image_seq_length=16, **EAGER,
    )  # fmt: skip
    model = transformers.LlavaForConditionalGeneration(config)
    found = [key for key, _ in model.named_parameters()]
    with_images("tiny_llava", model, prompt, 60, 16, tuple(key for key in found if "linear_1" in key))
    siglip = transformers.SiglipVisionConfig(**SIZES, **IMAGE, projection_dim=32)
    siglip.vision_use_head = False
    gemma = transformers.GemmaConfig(**text, **grouped, head_dim=8, hidden_activation="gelu_pytorch_tanh")
    config = transformers.PaliGemmaConfig(
        vision_config=siglip, text_config=gemma, image_token_index=60, projection_dim=32, **EAGER
    )
    model = transformers.PaliGemmaForConditionalGeneration(config)
    found = [key for key, _ in model.named_parameters()]
    types = torch.zeros((2, 22), dtype=torch.long)
    types[:, -3:] = 1
    keep = tuple(key for key in found if "multi_modal_projector" in key)
    with_images("tiny_paligemma", model, prompt, 60, 16, keep, token_type_ids=types)


def main() -> None:
    """Records all of them."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    classifiers()
    towers()
    vision_language()


if __name__ == "__main__":
    main()
