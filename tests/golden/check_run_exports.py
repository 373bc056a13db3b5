"""Has peft, transformers and sentence-transformers load what ``ft-jax export`` writes: ``python check_run_exports.py``.

Tiny runs are trained and exported, and each library must give the outputs that ``ft-jax predict`` and the run's model
give. ``--make FOLDER`` writes the exports and expected outputs alone (needs ft_jax), ``--check FOLDER`` loads them
(needs torch, transformers, peft and sentence-transformers).
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
TOLERANCE = 2e-5


def make(folder: Path) -> None:
    """Trains, exports and writes what is expected."""
    import jax
    from training.serving import small_runs

    from ft_jax.training import Use
    from ft_jax.training.serving import export_adapter, export_merged, load_run
    from ft_jax.training.serving.export import SENTENCE, read_by

    encoder, decoder = small_runs.encoder_folder(folder / "encoder"), small_runs.decoder_folder(folder / "decoder")
    reviews, chats = small_runs.texts(folder / "reviews.csv"), small_runs.chats(folder / "chats.jsonl")
    experiments = {
        "pooler": small_runs.classifier(encoder, reviews, "pooler", "pooler"),
        "mean": small_runs.classifier(encoder, reviews, "mean", "mean"),
        "cls": small_runs.classifier(encoder, reviews, "cls", "cls", (Use("transfer.full"),)),
        "chat": small_runs.chat(decoder, chats, "chat"),
        "chat-dora": small_runs.chat(decoder, chats, "chat-dora", (Use("transfer.dora", rank=2),)),
    }
    texts = ["a good film", "the plot was awful and bad", "not"]
    expected = {}
    for name, experiment in experiments.items():
        kept = load_run(small_runs.run(experiment, folder / "runs" / name).run)
        tokens = [kept.model.tokenizer(text)["input_ids"] for text in texts]
        longest = max(map(len, tokens))
        ids = np.array([one + [kept.model.pad_token] * (longest - len(one)) for one in tokens], np.int32)
        mask = np.array([[1] * len(one) + [0] * (longest - len(one)) for one in tokens], np.int32)
        batch = {"input_ids": ids, "attention_mask": mask}
        logits = np.asarray(jax.jit(kept.model.apply)(kept.model.params, batch).logits)
        reader = read_by(kept.model)
        export_merged(kept, folder / f"{name}-merged")
        if reader != SENTENCE and name != "cls":
            export_adapter(kept, folder / f"{name}-adapter")
        expected[name] = {"reader": reader, "logits": logits.tolist(), "ids": ids.tolist(), "mask": mask.tolist()}
    (folder / "expected.json").write_text(json.dumps({"texts": texts, "runs": expected}), encoding="utf-8")


def check(folder: Path) -> float:
    """The largest difference of any library's outputs."""
    import torch
    import transformers
    from peft import PeftModel

    told = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    worst = 0.0
    for name, one in told["runs"].items():
        wanted, mask = np.array(one["logits"]), np.array(one["mask"])
        found = {}
        if one["reader"] == "sentence-transformers":
            from sentence_transformers import SentenceTransformer

            model = SentenceTransformer(str(folder / f"{name}-merged"), device="cpu")
            found["merged"] = model.encode(told["texts"])
        else:
            kind = getattr(transformers, one["reader"])
            inputs = {"input_ids": torch.tensor(one["ids"]), "attention_mask": torch.tensor(one["mask"])}
            merged, report = kind.from_pretrained(folder / f"{name}-merged", output_loading_info=True)
            if report["missing_keys"] or report["unexpected_keys"]:
                print(f"{name}: {report}")
                return float("inf")
            config = json.loads((folder / f"{name}-adapter" / "adapter_config.json").read_text(encoding="utf-8"))
            options = {"num_labels": wanted.shape[-1]} if wanted.ndim == 2 else {}
            base = kind.from_pretrained(config["base_model_name_or_path"], **options)
            adapted = PeftModel.from_pretrained(base, folder / f"{name}-adapter")
            with torch.no_grad():
                found = {
                    "merged": merged.eval()(**inputs).logits.numpy(),
                    "adapter": adapted.eval()(**inputs).logits.numpy(),
                }
        for way, got in found.items():
            gaps = np.abs(got - wanted)
            gap = float((gaps if gaps.ndim == 2 else gaps[mask > 0]).max() / np.abs(wanted).max())
            worst = max(worst, gap)
            print(f"{'equal ' if gap <= TOLERANCE else 'DIFFERS'} {name} {way} by {one['reader']}: {gap:.1e}")
    return worst


def main() -> None:
    """Prints a row an export; exits non-zero where one differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--make", type=Path)
    parser.add_argument("--check", type=Path)
    options = parser.parse_args()
    if options.make:
        make(options.make)
    elif options.check:
        raise SystemExit(check(options.check) > TOLERANCE)
    else:
        with tempfile.TemporaryDirectory() as parent:
            make(Path(parent))
            raise SystemExit(check(Path(parent)) > TOLERANCE)


if __name__ == "__main__":
    main()
