"""Attention mechanisms: learned weights on what a model attends to, and maps that guide its training.

Virtual tokens, keys and values:

- `prefix_tuning`: keys and values of virtual tokens in every layer, by themselves or through a network.
- `p_tuning_v2`: deep prompts, a prefix without the network and with the head.
- `prompt_tuning`: embeddings of virtual tokens before the text.
- `p_tuning`: virtual tokens that a prompt encoder makes.
- `llama_adapter`: attention to a prompt behind a gate that starts at zero.

Scales and gates:

- `ia3`: elementwise rescaling of keys, values and inner activations.
- `head_gates`: a gate on each head, drawn to zero by an L1 or L0 penalty.
- `layer_gates`: a gate on each layer's attention.
- `token_gates`: a gate on what each token gives, from the token itself.
- `attention_only`: the attention layers' own weights learn.
- `attentive_pooling`: a learned query weighs the tokens of an example.

Attention to fewer tokens:

- `sliding_window`: only tokens near each other.
- `shifted_sparse`: groups of tokens, shifted for half of the heads.

Guidance:

- `supervision`: maps towards people's rationales.
- `transfer`: maps towards a teacher's.
- `token_weighting`: the loss's weights by the attention that tokens receive.
- `rho1`: the tokens whose loss most exceeds a reference model's.
- `head_pruning`: leaves out the heads that matter least, by `head_importance`.
"""

from ft_jax.attention import peft_formats as peft_formats
from ft_jax.attention.attention_only import attention_only
from ft_jax.attention.gates import gates_of, head_gates, layer_gates, token_gates
from ft_jax.attention.guidance import supervision, transfer
from ft_jax.attention.ia3 import ia3
from ft_jax.attention.importance import head_importance, head_pruning, least_important
from ft_jax.attention.llama_adapter import llama_adapter
from ft_jax.attention.maps import attention_maps
from ft_jax.attention.pooling import attentive_pooling, pooling_of
from ft_jax.attention.prefix import p_tuning_v2, prefix_tuning
from ft_jax.attention.prompts import p_tuning, prompt_tuning
from ft_jax.attention.sparse import shifted_sparse, sliding_window
from ft_jax.attention.weighting import rho1, token_weighting

__all__ = [
    "attention_maps", "attention_only", "attentive_pooling", "gates_of", "head_gates", "head_importance",
    "head_pruning", "ia3", "layer_gates", "least_important", "llama_adapter", "p_tuning", "p_tuning_v2", "pooling_of",
    "prefix_tuning", "prompt_tuning", "rho1", "shifted_sparse", "sliding_window", "supervision", "token_gates",
    "token_weighting", "transfer",
]  # fmt: skip
