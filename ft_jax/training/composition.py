"""The methods of an experiment by name and option, made into a composition for a model and its data."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ft_jax.core import Composition, Method, catalogue, compose
from ft_jax.core.params import learns, matches, nearest, paths
from ft_jax.core.weights import shape
from ft_jax.models.heads import HEAD
from ft_jax.outside import printable


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run has before its methods are made.

    Attributes:
      model: the built model.
      example: the first host batch; its shapes matter.
      steps: of the whole run.
      key: for building.
      outline: build what stands in for trained models, see `built`.
    """

    model: Any
    example: Mapping[str, Any]
    steps: int
    key: jax.Array
    outline: bool = False


def built(spec: Any, key: jax.Array, outline: bool) -> Any:
    """What a spec builds; for an outline, ``spec.outline(key)`` where it has one.

    A spec whose ``build`` trains a model has an ``outline`` that gives one of the same shapes untrained, so
    that a run can be looked at without training anything.
    """
    return spec.outline(key) if outline and hasattr(spec, "outline") else spec.build(key)


def for_outputs(spec: Any, outputs: int) -> Any:
    """A model spec with another number of outputs, for a head that grows; by its ``for_outputs(count)`` if it has one.

    Raises:
      ValueError: the spec doesn't say how many it has.
    """
    if hasattr(spec, "for_outputs"):
        return spec.for_outputs(outputs)
    if dataclasses.is_dataclass(spec) and "classes" in {field.name for field in dataclasses.fields(spec)}:
        return dataclasses.replace(spec, classes=outputs)
    raise ValueError(
        f"the head grows with the classes of the stream, and {type(spec).__name__} has no field 'classes' to be made "
        "larger; give it one, or a method for_outputs(count)"
    )


@dataclasses.dataclass(frozen=True, init=False)
class Use:
    """A method of the catalogue and the options of its constructor.

    ``apply``, ``params``, ``example``, ``stop_tokens``, ``pad_token`` and ``student`` (the run's own forward function
    beside a teacher's ``apply``) are filled in from the run where the constructor asks for them, and so is ``classes``,
    the outputs of the model's head, where it must be given and isn't. An option with a
    method ``for_run(parts)`` becomes what that gives, such as a reward `ft_jax.training.own_data.Verified`. An option
    may be a model spec, which is built when the run starts: a teacher is
    ``Use("distillation.logits", params=Pretrained(...))``, whose ``apply`` comes along; several teachers are a tuple.

    Example:
      >>> Use("transfer.lora", rank=8).changed(rank=4)
      Use('transfer.lora', rank=4)
    """

    name: str
    options: Mapping[str, Any]

    def __init__(self, name: str, /, **options: Any):
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "options", options)

    def __repr__(self):
        return f"Use({', '.join([repr(self.name), *(f'{key}={value!r}' for key, value in self.options.items())])})"

    def changed(self, **options: Any) -> "Use":
        """The same method with some options changed."""
        return Use(self.name, **{**self.options, **options})

    def signature(self) -> inspect.Signature:
        """The constructor's signature.

        Raises:
          KeyError: the catalogue has no such method; the sentence has the nearest.
        """
        return inspect.signature(catalogue[self.name].build)

    def check(self) -> None:
        """Raises KeyError on an unknown method, ValueError on an option it doesn't have."""
        known = self.signature().parameters
        if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
            return
        for option in self.options:
            if option not in known:
                raise ValueError(
                    f"{self.name} has no option {printable(option)}; the nearest are {nearest(option, known)}"
                )

    def build(self, parts: Parts) -> Method:
        """The method.

        Raises:
          ValueError: an unknown option, or one that must be given and isn't.
        """
        self.check()
        known = self.signature().parameters
        options = {}
        for option, value in self.options.items():
            if hasattr(value, "for_run"):
                options[option] = value.for_run(parts)
                continue
            several = isinstance(value, tuple | list) and len(value) > 0 and all(hasattr(x, "build") for x in value)
            if not several and not hasattr(value, "build"):
                options[option] = value
                continue
            key = jax.random.fold_in(parts.key, len(options))
            if several:
                made = tuple(built(x, jax.random.fold_in(key, at), parts.outline) for at, x in enumerate(value))
            else:
                made = built(value, key, parts.outline)
            if option != "params":
                options[option] = made
                continue
            options[option] = tuple(one.params for one in made) if several else made.params
            if "apply" in known and "apply" not in self.options:
                options["apply"] = tuple(one.apply for one in made) if several else made.apply
        run = {"apply": parts.model.apply, "params": parts.model.params, "example": parts.example}
        run["student"] = parts.model.apply
        run |= {name: getattr(parts.model, name) for name in ("stop_tokens", "pad_token") if hasattr(parts.model, name)}
        head = getattr(parts.model, "params", {}).get("head") if "classes" in known else None
        if head is not None and known["classes"].default is inspect.Parameter.empty:
            run["classes"] = outputs = shape(head["kernel"])[-1]
            if isinstance(self.options.get("classes"), int) and self.options["classes"] < outputs:
                raise ValueError(
                    f"{self.name} has classes={self.options['classes']} and the model's head {outputs} outputs, so "
                    "that it would leave some out; leave classes out, which takes the head's"
                )
        for name, parameter in known.items():
            if name in run:
                options.setdefault(name, run[name])
            elif (
                name not in options
                and parameter.default is parameter.empty
                and parameter.kind
                not in (
                    parameter.VAR_KEYWORD,
                    parameter.VAR_POSITIONAL,
                )
            ):
                raise ValueError(
                    f"{self.name} needs option {printable(name)}; give Use({printable(self.name)}, {name}=...)"
                )
        return catalogue[self.name].build(**options)


MethodLike = Use | Method | Composition | Callable[[Parts], Method]


def with_new_head(composition: Composition, model: Any) -> Composition:
    """The composition, in which a head that was drawn anew learns where no method says that it does.

    A method that freezes the base, such as an adapter, would else leave the classifier at its random start.
    """
    on_its_own = HEAD in getattr(model, "drawn", ())
    drawn = [path for path in (_drawn(model) if on_its_own else ()) if matches(path, (f"model/{HEAD}",))]
    if all(learns(_filters(composition), path, None) for path in drawn):
        return composition
    return compose(composition, Method(name=NEW_HEAD, trainable=lambda path, leaf: True if path in drawn else None))


NEW_HEAD = "new_head"
"""The name under which `with_new_head` lets a drawn head learn."""


def frozen_at_random(composition: Composition, model: Any) -> list[str]:
    """The paths of parameters that were drawn at random and don't learn."""
    return [path for path in _drawn(model) if not learns(_filters(composition), path, None)]


def _drawn(model: Any) -> list[str]:
    patterns = getattr(model, "drawn", ())
    return [f"model/{path}" for path in (paths(model.params) if patterns else ()) if matches(path, patterns)]


def _filters(composition: Composition) -> list[Any]:
    return [part.trainable for part in composition if part.trainable is not None]


def check_methods(methods: tuple[MethodLike, ...]) -> None:
    """Raises, in one sentence, on what can be seen to be wrong before model and data are there."""
    for method in methods:
        if isinstance(method, Use):
            method.check()
        elif not isinstance(method, Method | Composition) and not callable(method):
            raise ValueError(
                f'experiment.method holds {printable(method)}; use Use("family.method", ...), a Method or a function '
                "of Parts"
            )


def check_untold(methods: tuple[MethodLike, ...]) -> None:
    """Raises ValueError on a method that is told how many outputs a head has which grows."""
    for method in methods:
        told = method.options.get("classes") if isinstance(method, Use) else None
        if told is not None and method.signature().parameters["classes"].default is inspect.Parameter.empty:
            raise ValueError(
                f"{method.name} is told of {told} classes, and the head grows with those that come; leave classes out, "
                "which takes the head's"
            )


def build_methods(methods: tuple[MethodLike, ...], parts: Parts) -> Composition:
    """The composition, outermost first as given."""

    def one(index, method):
        own = dataclasses.replace(parts, key=jax.random.fold_in(parts.key, index))
        if isinstance(method, Use):
            return method.build(own)
        return method if isinstance(method, Method | Composition) else method(own)

    return compose(*(one(index, method) for index, method in enumerate(methods)))
