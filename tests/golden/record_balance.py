"""Records torchjd's aggregations of small Jacobians: ``python tests/golden/record_balance.py`` beside torchjd."""

import importlib.metadata
import json
from pathlib import Path

import torch
from torchjd.aggregation import IMTLG, MGDA, AlignedMTL, CAGrad, PCGrad, UPGrad

JACOBIANS = {
    "conflict": [[1.0, 0.0, 2.0], [-3.0, 1.0, 0.5]],
    "three": [[1.0, 0.0, 2.0, 0.3], [-3.0, 1.0, 0.5, 0.1], [0.4, -1.0, 0.2, 1.5]],
}
# PCGrad's order is random, and matters with three terms.
AGGREGATORS = {
    "upgrad": UPGrad(),
    "mgda": MGDA(epsilon=1e-7, max_iters=100000),
    "aligned": AlignedMTL(),
    "imtl": IMTLG(),
    "cagrad": CAGrad(c=0.5),
    "pcgrad": PCGrad(),
}

if __name__ == "__main__":
    record = {name: importlib.metadata.version(name) for name in ("torch", "torchjd")}
    record = {"versions": record, "jacobians": JACOBIANS, "values": {}}
    for label, rows in JACOBIANS.items():
        jacobian = torch.tensor(rows, dtype=torch.float64)
        record["values"][label] = {
            name: [float(x) for x in aggregate(jacobian)]
            for name, aggregate in AGGREGATORS.items()
            if name != "pcgrad" or len(rows) == 2
        }
    Path(__file__).with_name("balance.json").write_text(json.dumps(record, indent=1) + "\n")
