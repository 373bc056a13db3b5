"""Package metadata; tools are configured in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

# Top-level folders of the repository with names so general that an environment may have others of them: installed, they
# are packages of ft_jax.
INSIDE = ("experiments", "benchmarks")

setup(
    name="ft_jax",
    version="0.1.0",
    description="Fine-tuning methods as values that compose, in JAX",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["ft_jax", "ft_jax.*"]),
        *(f"ft_jax.{name}" for name in find_packages(include=[f"{top}{end}" for top in INSIDE for end in ("", ".*")])),
    ],
    package_dir={"ft_jax": "ft_jax", **{f"ft_jax.{top}": top for top in INSIDE}},
    package_data={"ft_jax": ["py.typed"], "ft_jax.benchmarks": ["counts.json"]},
    install_requires=[
        "jax>=0.10,<0.13",
        "flax>=0.12",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11.30",
        "grain>=0.2.12",
        "jaxtyping>=0.3",
        "numpy>=2.0",
        "packaging",
        "pydantic>=2.5",
        "transformers>=5.0",
        "tokenizers>=0.22",
        "safetensors>=0.6",
        "gguf>=0.17",
        "huggingface_hub>=1.0",
        "filelock>=3.16",
        "requests>=2.32",
        "jinja2>=3.1",
        "scikit-learn>=1.5",
        "threadpoolctl>=3.1",
        "rich>=13.9",
        "tyro>=0.9.35",
        "tensorboardX>=2.6.2",
    ],
    extras_require={
        "gpu": ["jax[cuda12]>=0.10,<0.13"],
        "tpu": ["jax[tpu]>=0.10,<0.13"],
        "tfds": [
            "tensorflow-datasets>=4.9.9",
            "importlib_resources",
            "array-record>=0.8; sys_platform == 'linux'",
        ],
        "images": ["pillow>=10"],
        "captions": ["sacrebleu>=2.4"],
        "parquet": ["pyarrow>=18"],
        "search": ["optuna>=4.5", "cmaes>=0.11"],
        "gymnasium": ["gymnasium>=1.0"],
        "mnist1d": ["mnist1d>=0.0.2"],
        "docs": ["matplotlib>=3.9"],
        "dev": [
            "ft_jax[tfds,docs,images,captions,parquet,search,gymnasium]",
            "chex>=0.1.90",
            "setuptools>=77",
            "pytest>=8.3",
            "pytest-xdist>=3.6",
            "hypothesis>=6.140",
            "ruff>=0.13",
            "import-linter>=2.5",
        ],
    },
    entry_points={"console_scripts": ["ft-jax=ft_jax.cli:main"]},
)
