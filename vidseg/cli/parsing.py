"""Parsing of command lines into the dataclasses of commands, with tyro, and the help texts.

tyro shows an optional value as `{None}|STR (default: None)`. Two rules replace that: an option of type `X | None` has
the placeholder of X, and a default of None, "" or () is not shown, since the help text says what happens then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from tyro import cli
from tyro.conf import OmitArgPrefixes, arg
from tyro.constructors import (
    MISSING,
    MISSING_NONPROP,
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
    UnsupportedTypeAnnotationError,
)

__all__ = ["Prepared", "option_registry", "parse", "without_none"]

_UNSAID = (None, "", (), MISSING, MISSING_NONPROP)  # of a missing default only a list of any length has none
_NONE = ["None"]


class Prepared(NamedTuple):
    """What the words of a command line ask for, before they are parsed.

    Attributes:
        name: of the part of the command, for its help; "" for the command itself.
        command: dataclass to parse the words with.
        default: command whose values are the defaults; None: those of the dataclass.
        words: that are left to parse.
        run: does the work of a parsed command and returns the exit status; None: its own method `run`.
    """

    name: str
    command: Any
    default: Any
    words: list[str]
    run: Callable[[Any], int] | None = None


def parse(program: str, command: Any, words: Sequence[str], *, default: Any = None) -> Any:
    """Return the command with the options that the words give.

    Args:
        program: name in the help text.
        command: dataclass, or a union of dataclasses for subcommands.
        words: of the command line, behind the program.
        default: command whose values are the defaults; None: those of the dataclass.

    Raises:
        SystemExit: the help was asked for (0), or the words are wrong (2); both are printed.
    """
    chosen = {} if default is None else {"default": default}
    return cli(
        command,
        prog=program,
        args=_spelled_out(command, words),
        config=(OmitArgPrefixes,),
        registry=option_registry(),
        **chosen,
    )


def without_none(kind: Any) -> Any:
    """Return X for the type `X | None`; None for any other type."""
    arguments = get_args(kind)
    if type(None) not in arguments or len(arguments) < 2 or get_origin(kind) is Annotated:
        return None
    return Union[tuple(one for one in arguments if one is not type(None))]  # noqa: UP007


def option_registry() -> ConstructorRegistry:
    registry = ConstructorRegistry()
    within: list[StructTypeInfo] = []

    @registry.primitive_rule
    def optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | UnsupportedTypeAnnotationError | None:
        kind = without_none(info.type)
        if kind is None:
            return None
        found = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, info.markers))
        if isinstance(found, UnsupportedTypeAnnotationError):
            return found
        choices = found.choices

        def instance(words: list[str]) -> Any:
            if words == _NONE:
                return None
            if choices is not None and not set(words) <= set(choices):
                raise ValueError(f"{' '.join(words)} is not one of {', '.join(choices)}")
            return found.instance_from_str(words)

        return dataclasses.replace(
            found,
            choices=None,  # checked above, as None is another choice
            instance_from_str=instance,
            is_instance=lambda value: value is None or found.is_instance(value),
            str_from_instance=lambda value: list(_NONE) if value is None else found.str_from_instance(value),
        )

    @registry.struct_rule
    def quiet_defaults(info: StructTypeInfo) -> StructConstructorSpec | None:
        if within or not dataclasses.is_dataclass(info.type):
            return None
        within.append(info)
        try:
            found = ConstructorRegistry.get_struct_spec(info)  # tyro's own rule
        finally:
            within.pop()
        if not isinstance(found, StructConstructorSpec):
            return None
        return dataclasses.replace(found, fields=tuple(map(_shown, found.fields)))

    return registry


def _shown(field: StructFieldSpec) -> StructFieldSpec:
    """An option with its help text in one paragraph, without a default that says nothing."""
    text = field.helptext
    if text is not None:

        def joined() -> str | None:
            found = text() if callable(text) else text
            return None if found is None else " ".join(found.split())

        field = dataclasses.replace(field, helptext=joined)
    if any(field.default is unsaid or field.default == unsaid for unsaid in _UNSAID):
        quiet: Any = Annotated[field.type, arg(help_behavior_hint="")]
        return dataclasses.replace(field, type=quiet)
    return field


def _spelled_out(command: Any, words: Sequence[str]) -> list[str]:
    """Let `--fine-tune True` and `--fine-tune=False` mean --fine-tune and --no-fine-tune."""
    flags = {name.replace("_", "-") for option in _alternatives(command) for name in _flags(option)}
    result: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        key = name.removeprefix("--").replace("_", "-")
        if equals and name.startswith("--") and key in flags and value.lower() in {"true", "false"}:
            result.append(f"--{key}" if value.lower() == "true" else f"--no-{key}")
        elif result and result[-1].startswith("--") and word.lower() in {"true", "false"}:
            key = result[-1].removeprefix("--").replace("_", "-")
            if key in flags:
                result[-1] = f"--{key}" if word.lower() == "true" else f"--no-{key}"
            else:
                result.append(word)
        else:
            result.append(word)
    return result


def _alternatives(command: Any) -> list[Any]:
    """The dataclasses of a command: itself, or the members of a union of subcommands."""
    if get_origin(command) is None:
        return [command]
    return [found for part in get_args(command) for found in _alternatives(part) if dataclasses.is_dataclass(found)]


def _flags(option: Any) -> list[str]:
    """Names of the options that are true or false, those of groups of options included."""
    names = []
    for field in dataclasses.fields(option):
        if dataclasses.is_dataclass(field.default):
            names += _flags(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            names += [] if not dataclasses.is_dataclass(made := field.default_factory()) else _flags(made)
        elif field.type in {bool, "bool"}:
            names.append(field.name)
    return names
