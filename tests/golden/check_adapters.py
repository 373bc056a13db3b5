"""Has peft and this library exchange adapters, every architecture × kind: ``python check_adapters.py [NAME …]``.

For every recorded checkpoint and every kind of adapter that peft has files for: an adapter is drawn and saved here and
peft loads it over the class of transformers that the checkpoint names; then peft draws the adapter's numbers anew,
saves, and it is loaded here. Outputs must be equal both ways, or the pair refused in a sentence. Needs torch,
transformers and peft beside ft_jax.
"""

import dataclasses
import inspect
import json
import sys
import tempfile
import warnings
from pathlib import Path

import jax
import numpy as np
import optax
import torch
import transformers
from peft import PeftModel

from ft_jax import attention, models, transfer
from ft_jax.cli.parity import _masked, _result, _run, gap
from ft_jax.cli.parity_cases import cases
from ft_jax.core import compose, make_step, parameters

HERE = Path(__file__).parent
TOLERANCE = 5e-5
METHODS = {
    "lora": lambda: transfer.lora(rank=2, alpha=3.0),
    "lora of attention": lambda: transfer.lora(
        rank=2, alpha=3.0, targets=("*attention/query/kernel", "*attention/value/kernel")
    ),
    "lora and head": lambda: transfer.lora(rank=2, alpha=3.0, targets="attention", also=("*/head/*",)),
    "rslora": lambda: transfer.rslora(rank=2, alpha=3.0),
    "lora bias": lambda: transfer.lora(rank=2, alpha=3.0, targets="attention", bias=True),
    "lora and tokens": lambda: compose(
        transfer.lora(rank=2, alpha=3.0, targets="attention"), transfer.trainable_tokens((3, 4, 7, 14))
    ),
    "tokens": lambda: transfer.trainable_tokens((3, 4, 7, 14)),
    "adalora": lambda: transfer.adalora(10, rank=3, target=2, alpha=3.0),
    "dora": lambda: transfer.dora(rank=2, alpha=3.0),
    "pissa": lambda: transfer.pissa(rank=2),
    "vera": lambda: transfer.vera(rank=3),
    "loha": lambda: transfer.loha(rank=2, alpha=3.0),
    "lokr": lambda: transfer.lokr(rank=2, alpha=3.0),
    "oft": lambda: transfer.oft(block=4),
    "boft": lambda: transfer.boft(block=4),
    "fourierft": lambda: transfer.fourierft(frequencies=20, scale=40.0),
    "hra": lambda: transfer.hra(rank=2),
    "hra orthogonal": lambda: transfer.hra(rank=2, orthogonal=True),
    "ia3": lambda: attention.ia3(),
    "norms": lambda: transfer.norm_tuning(head=()),
    "embeddings": lambda: transfer.lora(rank=2, alpha=3.0, targets=("*attention/query/kernel", "*embeddings/tokens")),
    "embeddings in full": lambda: transfer.lora(
        rank=2, alpha=3.0, targets=("*attention/query/kernel",), also=("*embeddings/tokens",)
    ),
    "experts": lambda: transfer.lora(rank=2, alpha=3.0, targets=("*/experts/*/kernel", "*attention/query/kernel")),
    "experts in part": lambda: transfer.lora(rank=2, alpha=3.0, targets=("*/experts/gate/kernel",)),
    "experts down": lambda: transfer.rslora(rank=2, alpha=3.0, targets=("*/0/mlp/experts/down/kernel",)),
    "prefix": lambda: attention.prefix_tuning(3),
    "prefix and head": lambda: attention.prefix_tuning(3, also=("*/head/*",)),
    "prompt": lambda: attention.prompt_tuning(3),
    "prompt and head": lambda: attention.prompt_tuning(3, also=("*/head/*",)),
}
"""What is drawn; a pair that peft or this library has no place for says so."""

LEARNED = (
    "lora_", "hada_", "lokr_", "oft_", "boft_", "vera_lambda", "ia3_", "ln_tuning", "prompt_encoder", "fourierft_",
    "hra_", "trainable_tokens_delta",
)  # fmt: skip
"""Parts of the names of what peft's adapters learn."""


class Refused(Exception):
    """What this library does not write, or can't hold, by its sentence."""


def peft_cannot(name: str, kind: str) -> bool:
    """Pairs that peft fails at by itself, whoever wrote the files."""
    routed = "mixtral" in name or "moe" in name
    no_past = any(part in name for part in ("modernbert", "distilbert", "roberta", "t5", "whisper"))
    # Its classifiers ask transformers for a name that went with 5.24; with 4.56 and peft 0.17 they are equal.
    no_past |= any(
        part in name for part in ("classifier", "regression", "reward", "tagger")
    ) and "past_key_values" not in (inspect.signature(transformers.LlamaForSequenceClassification.forward).parameters)
    # The recorded GPT-2 says num_key_value_heads, which peft takes for grouped queries.
    return (kind == "vera" and routed) or (kind.startswith("prefix") and (no_past or name == "gpt2"))


def drawn(model, method):
    """The model's parameters as they are seen with an adapter whose learning leaves are moved."""
    program = make_step(lambda *_: None, optax.identity(), method)
    state = program.init(model.params, jax.random.key(1))
    keys = iter(jax.random.split(jax.random.key(2), 10_000))
    moved = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(next(keys), leaf.shape, leaf.dtype), state.params)
    return parameters(state.replace(params=moved), method)["model"]


def answers(model, params, case, has_logits):
    """What the model here computes."""
    outputs = jax.jit(model.apply)(params, case.batch)
    return np.asarray(outputs.logits if has_logits else outputs.hidden)


def reference_of(folder):
    """The checkpoint in the class of transformers that it names."""
    named = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    return getattr(transformers, named).from_pretrained(folder, **options).eval()


def difference(folder, kind, parent) -> tuple[float, float]:
    """Of peft's outputs with what is saved here, and of ours with what peft saves."""
    model = models.load(folder, tokenizer=False)
    if hasattr(model.config, "tokens") and getattr(model.config, "classes", 0) is None:
        model = model.configure(tokens=True)
    # Where there is a window, a batch that is longer.
    case = cases(model, np.random.default_rng(0))[:2][-1 if getattr(model.config, "window", None) else 0]
    if kind.startswith("prompt") and model.apply.pooling == "last":
        # Given embeddings, transformers reads the last token, padding or not; the first row has none.
        rows = [{name: x[:1] for name, x in one.items()} for one in (case.batch, case.kwargs)]
        case = dataclasses.replace(case, batch=rows[0], kwargs=rows[1], mask=case.mask[:1])
    try:
        params = drawn(model, METHODS[kind]())
        models.save_adapter(model, params, parent / "here")
    except ValueError as error:
        raise Refused(str(error)) from error
    reference = reference_of(folder)
    with torch.no_grad():
        before, has_logits = _result(_run(reference, case))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            # Where there is a loss, peft's AdaLoRA asks which adapter is trainable, and fails where none is.
            tuned = PeftModel.from_pretrained(reference, parent / "here", is_trainable=kind == "adalora").eval()
        said = [str(one.message) for one in caught if "missing" in str(one.message) or "unexpected" in str(one.message)]
        if said:
            raise RuntimeError(said[0][:300])
        theirs = _result(_run(tuned, case))[0].numpy()
    # peft's models give virtual tokens' outputs too.
    virtual = theirs.shape[1] - before.shape[1] if theirs.ndim == 3 else 0
    theirs = theirs[:, virtual:]
    ours = answers(model, params, case, has_logits)
    if gap(before.numpy(), theirs) < 1e-4:
        raise RuntimeError("the adapter changes nothing in peft's model")
    first = gap(_masked(ours, case.mask), _masked(theirs, case.mask))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            known = any(part in name for part in LEARNED)
            if known or "modules_to_save" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        theirs = _result(_run(tuned, case))[0].numpy()[:, virtual:]
    tuned.save_pretrained(parent / "there")
    try:
        _, again = models.load_adapter(parent / "there", model)
    except ValueError as error:
        if "has other numbers for" in str(error) and "models.untied" not in str(error):
            raise Refused(str(error)) from error
        if "models.untied" not in str(error):
            raise
        # peft drew other numbers for the two modules of a tied table.
        model = models.untied(model)
        _, again = models.load_adapter(parent / "there", model)
    return first, gap(_masked(answers(model, again, case, has_logits), case.mask), _masked(theirs, case.mask))


def main() -> None:
    """Prints a row a pair; exits non-zero where one differs or dies in another way than a sentence of ours."""
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    wanted, wrong = sys.argv[1:], 0
    chosen = [kind for kind in METHODS if not wanted or kind in wanted or not set(wanted) & set(METHODS)]
    folders = [path.parent for path in sorted(HERE.rglob("config.json")) if "peft" not in path.parts]
    named = {folder.name for folder in folders} & set(wanted)
    for folder in (one for one in folders if not named or one.name in named):
        for kind in (one for one in chosen if not peft_cannot(folder.name, one)):
            with tempfile.TemporaryDirectory() as parent:
                try:
                    gaps = difference(folder, kind, Path(parent))
                    good = max(gaps) <= TOLERANCE
                    row = f"{gaps[0]:.1e} {gaps[1]:.1e}"
                except Refused as error:
                    good, row = "\n" not in str(error), f"refused: {str(error)[:150]}"
                except Exception as error:
                    good, row = False, f"{type(error).__name__}: {str(error)[:200]}"
            wrong += not good
            print(f"{'equal ' if good else 'DIFFERS'} {folder.name}, {kind}: {row}", flush=True)
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
