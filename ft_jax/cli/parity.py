"""``ft-jax parity``: a checkpoint here against the same one in an installed transformers with torch."""

import copy
import dataclasses
import importlib.util
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ft_jax.cli.entry import Parser
from ft_jax.cli.text import columns


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
      what: was compared.
      gap: the largest difference, see `gap`.
      allowed: the largest that passes.
    """

    what: str
    gap: float
    allowed: float

    @property
    def passes(self) -> bool:
        """Whether the difference is small enough; one that is no number is not."""
        return bool(self.gap <= self.allowed)


def command(words: Sequence[str]) -> int:
    """Prints a row a comparison; exits with 1 where one differs by more than it may."""
    parser = Parser(
        prog="ft-jax parity",
        description="Compare a checkpoint's outputs, gradients, greedy tokens and export with transformers and torch.",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="path",
        help="a folder with config.json and safetensors, a GGUF file, or any address of load",
    )
    parser.add_argument("--tolerance", type=float, default=2e-5, help="of hidden states and logits, relative")
    parser.add_argument("--gradients", type=float, default=1e-4, help="the same of gradients; 0 leaves them out")
    parser.add_argument("--tokens", type=int, default=12, help="how many greedy tokens of a decoder; 0 leaves them out")
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs")
    options = parser.parse_args(words)
    if importlib.util.find_spec("torch") is None:
        raise ValueError(
            "parity compares with transformers running on torch, and torch is not installed; run it in an environment "
            "of its own with `pip install torch` (make parity makes one)"
        )
    table, equal = [("compared", "difference", "allowed", "")], True
    for path in options.paths:
        rows = compare(path, options.tolerance, options.gradients, options.tokens, options.seed)
        print(columns([str(path), *table, *map(_cells, rows)]), flush=True)
        equal = equal and all(row.passes for row in rows)
    return 0 if equal else 1


def _cells(row: Row) -> tuple[str, str, str, str]:
    return row.what, f"{row.gap:.1e}", f"{row.allowed:.0e}", "equal" if row.passes else "DIFFERS"


def gap(got: np.ndarray, want: np.ndarray, least: float = 1.0) -> float:
    """The largest difference, in units of the largest wanted value or of `least`, whichever is more.

    Infinite where the shapes differ.

    Example:
      >>> gap(np.array([1.0, 40.5]), np.array([1.0, 40.0]))
      0.0125
    """
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape:
        return float("inf")
    return float(np.abs(got - want).max(initial=0.0) / max(least, np.abs(want).max(initial=0.0)))


def compare(path, tolerance: float, gradient_tolerance: float, tokens: int, seed: int) -> list[Row]:
    """All comparisons of one checkpoint.

    Raises:
      ValueError: where the model reads something else than tokens or images.
    """
    from ft_jax import assets, models
    from ft_jax.cli.parity_cases import cases
    from ft_jax.models.generation.generate import gives_tokens

    path = Path(assets.resolve(str(path)))
    model = models.load(path, tokenizer=False)
    reference = _reference(path)
    # Where transformers gives every patch's vector, so does the model here.
    patches = hasattr(model.config, "tokens") and model.config.classes is None
    whole = model.configure(tokens=True) if patches else model
    rows = []
    for case in cases(model, np.random.default_rng(seed)):
        rows += _outputs(whole.configure(collect=("hidden",)), reference, case, tolerance)
    if gradient_tolerance:
        rows.append(_gradients(whole, reference, case, gradient_tolerance, seed))
    if tokens and gives_tokens(model.apply):
        rows.append(_greedy(model, reference, case, tokens))
    rows.append(_exported(model, reference, case))
    return rows


def _reference(path: Path):
    """The checkpoint in transformers, in the class its configuration names."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager", "trust_remote_code": False}
    if path.is_dir() and (path / "config.json").is_file():
        named = json.loads((path / "config.json").read_text(encoding="utf-8")).get("architectures") or ["AutoModel"]
        return getattr(transformers, named[0]).from_pretrained(path, use_safetensors=True, **options).eval()
    file = path if path.is_file() else next(path.glob("*.gguf"))
    model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, **options)
    return model.eval()


def _run(reference, case):
    import torch

    def given(array):
        return torch.tensor(array.astype(np.int64) if array.dtype.kind == "i" else array)

    return reference(**{key: given(array) for key, array in case.kwargs.items()}, output_hidden_states=True)


def _result(outputs):
    """Their logits, or hidden states where there are none, and whether they are logits."""
    for name in ("logits", "logits_per_image"):
        if getattr(outputs, name, None) is not None:
            return getattr(outputs, name), True
    return outputs.last_hidden_state, False


def _masked(array, mask):
    """`array` where it counts; all of it where it has a vector an example and none a token."""
    array = np.asarray(array)
    if mask is None or array.shape[: mask.ndim] != mask.shape:
        return array
    return array * mask.reshape(*mask.shape, *(1,) * (array.ndim - mask.ndim))


def _outputs(model, reference, case, tolerance: float) -> list[Row]:
    import jax
    import torch

    with torch.no_grad():
        theirs = _run(reference, case)
    wanted, has_logits = _result(theirs)
    ours, result = jax.jit(
        lambda params, batch: (outputs := model.apply(params, batch), outputs.logits if has_logits else outputs.hidden)
    )(model.params, case.batch)
    gaps = [
        gap(_masked(ours.states[f"layers/{i}"], case.mask), _masked(hidden, case.mask))
        # The last of their hidden states is normalised.
        for i, hidden in enumerate((getattr(theirs, "hidden_states", None) or ())[1:-1])
        if f"layers/{i}" in ours.states
    ]
    rows = [Row(f"hidden states of {len(gaps)} layers, {case.name}", max(gaps), tolerance)] if gaps else []
    kind = "logits" if has_logits else "last hidden states"
    return [
        *rows,
        Row(f"{kind}, {case.name}", gap(_masked(result, case.mask), _masked(wanted, case.mask)), tolerance),
    ]


def _gradients(model, reference, case, tolerance: float, seed: int) -> Row:
    """Gradients of the outputs' product with random numbers, tensor by tensor as the checkpoint stores them."""
    import jax
    import torch

    from ft_jax.models.architectures import architecture_for, flat
    from ft_jax.models.architectures.naming import writers

    reference.zero_grad()
    theirs = _run(reference, case)
    result, has_logits = _result(theirs)
    probe = _masked(np.random.default_rng(seed + 1).normal(size=result.shape).astype(np.float32), case.mask)
    (result * torch.tensor(probe)).sum().backward()
    found = _as_stored(reference)

    def loss(params):
        outputs = model.apply(params, case.batch)
        return ((outputs.logits if has_logits else outputs.hidden) * probe).sum()

    gradients = flat(jax.jit(jax.grad(loss))(model.params))
    architecture = architecture_for(model.config)
    # A gradient has no offset: it is that of the stored number and of the parameter alike.
    table = {
        path: dataclasses.replace(tensor, offset=0.0)
        for path, tensor in architecture.tensors(model.config).items()
        if path in gradients
    }
    largest = max(np.abs(gradient).max(initial=0.0) for gradient in found.values())
    gaps = [
        gap(writer.write(*(np.asarray(gradients[path]) for path in writer.paths)), want, 0.01 * largest)
        for stored, writer in writers(table).items()
        if (want := found.get(architecture.prefix + stored, found.get(stored))) is not None
    ]
    return Row(f"gradients of {len(gaps)} of {len(found)} tensors", max(gaps, default=float("nan")), tolerance)


def _as_stored(reference) -> dict[str, np.ndarray]:
    """The gradients under the names and in the shapes of a checkpoint, which are not always those in memory."""
    import torch
    from safetensors.numpy import load_file

    holder = copy.deepcopy(reference)
    with torch.no_grad():
        for own, parameter in zip(holder.parameters(), reference.parameters(), strict=True):
            own.copy_(torch.zeros_like(own) if parameter.grad is None else parameter.grad)
    with tempfile.TemporaryDirectory() as folder:
        holder.save_pretrained(folder, max_shard_size="1000GB")
        return load_file(Path(folder) / "model.safetensors")


def _greedy(model, reference, case, new: int) -> Row:
    """How many of the greedy tokens after the batch's first sequence differ."""
    import torch

    from ft_jax.models import generate

    prompt = case.batch["input_ids"][:1][case.batch["attention_mask"][:1] > 0][None]
    new = min(new, model.config.positions - prompt.shape[1])
    got = generate(model, model.params, prompt, max_new_tokens=new, stop_tokens=())
    tokens = torch.tensor(prompt.astype(np.int64))
    with torch.no_grad():
        for _ in range(new):
            likeliest = reference(input_ids=tokens).logits[:, -1].argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, likeliest], dim=1)
    wrong = int((np.asarray(got.tokens[0]) != tokens[0, prompt.shape[1] :].numpy()).sum())
    return Row(f"greedy tokens of {new} that differ", float(wrong), 0.0)


def _exported(model, reference, case) -> Row:
    """The saved model in transformers' hands against the original there."""
    import torch

    from ft_jax.models import save

    with tempfile.TemporaryDirectory() as parent:
        folder = save(model, model.params, Path(parent) / "exported", max_shard_bytes=200_000_000)
        again, report = type(reference).from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
            trust_remote_code=False,
        )
    # Parameters alone: a constant that the class makes itself need not be in a file.
    parameters = {name for name, _ in again.named_parameters()}
    lost = sorted(set(report["missing_keys"]) & parameters | set(report["unexpected_keys"]))
    if lost:
        return Row(f"exported; transformers misses or doesn't know {lost[0]}", float("inf"), 0.0)
    with torch.no_grad():
        got, want = (_result(_run(each, case))[0] for each in (again.eval(), reference))
    return Row("saved here, loaded by transformers: its outputs", gap(got.numpy(), want.numpy()), 1e-6)
