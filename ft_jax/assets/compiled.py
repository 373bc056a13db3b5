"""Compiled programs kept on disk."""

from ft_jax.assets.cache import cache_folder


def use_compilation_cache() -> None:
    """Keeps compiled programs in the ft_jax cache between processes.

    Where jax was told of another place (``JAX_COMPILATION_CACHE_DIR``) they are kept there;
    ``JAX_ENABLE_COMPILATION_CACHE=false`` turns it off. `fit` and `ft_jax.models.load` call it, so that a plain script
    that loads a model compiles its step once.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
