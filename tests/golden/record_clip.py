"""Records transformers' CLIP loss and gradients on tiny towers: ``python record_clip.py OUT.npz`` (needs torch)."""

import sys

import numpy as np
import torch
import transformers
from transformers import CLIPConfig, CLIPModel

PAIRS = 5


def main() -> None:
    """Writes both towers' pooled representations, the projections, the embeddings, the loss and gradients."""
    torch.manual_seed(0)
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": 11, "max_position_embeddings": 6, "eos_token_id": 10, "bos_token_id": 9}
    vision = {**small, "hidden_size": 12, "image_size": 4, "patch_size": 2}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=7))
    with torch.no_grad():
        for projection in (model.visual_projection, model.text_projection):
            projection.weight.normal_()
    tokens = torch.cat([torch.randint(0, 9, (PAIRS, 5)), torch.full((PAIRS, 1), 10)], dim=1)
    images = torch.randn(PAIRS, 3, 4, 4)
    outputs = model(input_ids=tokens, pixel_values=images, return_loss=True)
    outputs.loss.backward()
    record = {
        "image": model.vision_model(images).pooler_output,
        "text": model.text_model(tokens).pooler_output,
        "image_projection": model.visual_projection.weight.T,
        "text_projection": model.text_projection.weight.T,
        "image_embeddings": outputs.image_embeds,
        "text_embeddings": outputs.text_embeds,
        "log_scale": model.logit_scale,
        "loss": outputs.loss,
        "gradient/image_projection": model.visual_projection.weight.grad.T,
        "gradient/text_projection": model.text_projection.weight.grad.T,
        "gradient/log_scale": model.logit_scale.grad,
    }
    arrays = {name: value.detach().numpy() for name, value in record.items()}
    np.savez(sys.argv[1], transformers=transformers.__version__, **arrays)


if __name__ == "__main__":
    main()
