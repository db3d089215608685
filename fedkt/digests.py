"""The digest of a Python object's content: equal in every session, another after an edit.

Pickles do not serve: they hold line numbers, files and random names of classes. Here code counts
by its instructions, constants and the names it uses, together with what those names stand for.
"""

from __future__ import annotations

import dataclasses
import dis
import enum
import functools
import hashlib
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np

ByValue = Callable[[str | None], bool]
Parts = Iterator[object]  # bytes, and what is written as text

# In a class's own dictionary, but no content: what Python or a base adds.
_INCIDENTAL = {
    *("__dict__", "__weakref__", "__module__", "__abstractmethods__", "_abc_impl"),
    *("__firstlineno__", "__static_attributes__", "__annotations_cache__", "__annotate_func__"),
    *("__dataclass_fields__", "__dataclass_params__", "__match_args__"),
}


def digest_of(thing: Any, by_value: ByValue) -> str:
    """Return the SHA-256 of an object's content in hexadecimal.

    Parameters
    ----------
    thing : object
        A class, a function, or any object that can be pickled.
    by_value : callable
        Whether classes and functions of a module, given by name, count by their content; others
        count by their names.

    Returns
    -------
    str
        An object that no pickle can hold, as a lock or an open file, counts by its class alone.
    """
    walk = _Walk(by_value)
    digest = hashlib.sha256(walk.of(thing).encode())
    for code in walk.codes:  # which grows meanwhile
        digest.update(walk.parts_of(code))
    return digest.hexdigest()


class _Walk:
    """One walk through an object and all that it refers to.

    Attributes
    ----------
    codes : list
        The functions and classes that count by their content, in the order in which the walk has
        met them; they refer to each other by their places here.
    """

    def __init__(self, by_value: ByValue) -> None:
        self._by_value = by_value
        self.codes: list[Any] = []
        self._places: dict[int, int] = {}
        # By id, with the object, which must live as long as its id counts.
        self._done: dict[int, tuple[str, Any]] = {}
        self._open: dict[int, int] = {}  # objects on the way to this one, by depth

    def of(self, thing: Any) -> str:
        """Return the digest of an object, or the place of a function or class."""
        if thing is None or thing is ... or isinstance(thing, _PLAIN):
            return f"{type(thing).__name__} {thing!r}"
        if isinstance(thing, type | types.FunctionType):
            if id(thing) not in self._places:
                self._places[id(thing)] = len(self.codes)
                self.codes.append(thing)
            return f"code {self._places[id(thing)]}"
        if id(thing) in self._done:
            return self._done[id(thing)][0]
        if id(thing) in self._open:
            return f"cycle {self._open[id(thing)]}"
        self._open[id(thing)] = len(self._open)
        digest = hashlib.sha256(self.parts_of(thing)).hexdigest()
        del self._open[id(thing)]
        self._done[id(thing)] = digest, thing
        return digest

    def parts_of(self, thing: Any) -> bytes:
        """Return the digest of what an object is made of."""
        digest = hashlib.sha256()
        for part in (type(thing).__qualname__, *self._parts(thing)):
            content = part if isinstance(part, bytes) else str(part).encode(errors="surrogatepass")
            digest.update(b"%d:%b" % (len(content), content))
        return digest.digest()

    def _parts(self, thing: Any) -> Parts:
        fitting = (h for kind, h in _HANDLERS if isinstance(thing, kind))
        handler = _EXACT.get(type(thing)) or next(fitting, _Walk._object)
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(thing, torch.Tensor) and not thing.is_sparse:
            handler = _Walk._tensor
        elif torch is not None and isinstance(thing, torch.utils.hooks.RemovableHandle):
            handler = _Walk._hook
        elif torch is not None and isinstance(thing, torch.nn.Module):
            handler = _Walk._network
        return handler(self, thing)

    def _all(self, things: Iterable[Any]) -> Iterator[str]:
        return map(self.of, things)

    def _set(self, members: Iterable[Any]) -> Parts:
        yield from sorted(self._all(members))  # sets of text have a random order

    def _mapping(self, mapping: Mapping[Any, Any]) -> Iterator[str]:
        return self._all(part for item in mapping.items() for part in item)

    def _array(self, array: np.ndarray[Any, Any]) -> Parts:
        yield f"{array.dtype.str} {array.shape}"
        if array.dtype.hasobject:
            yield from self._all(array.ravel().tolist())
        else:
            yield array.tobytes()

    def _tensor(self, tensor: Any) -> Parts:
        if hasattr(tensor, "materialize"):  # of a lazy layer: it has no shape and no values yet
            yield f"{tensor.dtype} uninitialised {tensor.requires_grad}"
            return
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        yield f"{tensor.dtype} {tuple(tensor.shape)} {tensor.requires_grad}"
        yield flat.view(sys.modules["torch"].uint8).numpy().tobytes()

    def _hook(self, hook: Any) -> Parts:
        """Yield nothing: its number counts the hooks of this process, and its network has it."""
        yield from ()

    def _network(self, network: Any) -> Parts:
        """Yield the class and the state of a network, with its hooks in order, without numbers."""
        yield self.of(type(network))
        for name, value in vars(network).items():
            numbered = "_hooks" in name and isinstance(value, Mapping)
            yield from (name, self.of([*value.values()] if numbered else value))

    def _code(self, code: types.CodeType) -> Parts:
        counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
        names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
        yield from (code.co_name, counts, names, code.co_code, code.co_exceptiontable)
        yield from self._all(code.co_consts)

    def _function(self, function: types.FunctionType) -> Parts:
        # Where it was written: a wrapper has the module and the name of what it wraps.
        home = function.__globals__.get("__name__")
        wrapped = function.__dict__.get("__wrapped__")
        if self._is_named(home, function.__code__.co_qualname) or (
            wrapped is not None and not self._by_value(home)
        ):
            yield from (home, function.__code__.co_qualname, self.of(wrapped))
            return
        yield self.of(function.__code__)
        yield from self._all((function.__defaults__, function.__kwdefaults__, function.__dict__))
        for name in _globals_of(function.__code__):
            yield name
            if name in function.__globals__:
                yield self.of(function.__globals__[name])
        yield from self._all(function.__closure__ or ())

    def _cell(self, cell: types.CellType) -> Parts:
        try:
            content = cell.cell_contents
        except ValueError:  # empty
            return
        yield self.of(content)

    def _class(self, cls: type) -> Parts:
        yield cls.__qualname__
        if self._is_named(cls.__module__, cls.__qualname__):
            yield cls.__module__
            return
        yield from self._all((type(cls), *cls.__bases__))
        if issubclass(cls, enum.Enum):
            yield from self._mapping({member.name: member.value for member in cls})
        if dataclasses.is_dataclass(cls):
            for field in dataclasses.fields(cls):
                yield f"{field.name}: {field.type}"
                yield from map(self._default, (field.default, field.default_factory))
        of_enum = "_" if issubclass(cls, enum.Enum) else "no attribute"
        for name, value in sorted(vars(cls).items()):
            is_member = issubclass(cls, enum.Enum) and isinstance(value, cls)
            if name not in _INCIDENTAL and not is_member and not name.startswith(of_enum):
                yield from (name, self.of(value))

    def _default(self, value: Any) -> object:
        return "none" if value is dataclasses.MISSING else self.of(value)

    def _is_named(self, module: str | None, name: str) -> bool:
        """Return whether a class or function is what its name says, in a module that is there."""
        return "<" not in name and not self._by_value(module)

    def _module(self, module: types.ModuleType) -> Parts:
        yield module.__name__
        file = getattr(module, "__file__", None)
        if file and self._by_value(module.__name__):
            yield Path(file).read_bytes()

    def _built_in(self, thing: Any) -> Parts:
        yield f"{getattr(thing, '__module__', '')} {thing.__qualname__}"
        bound = getattr(thing, "__self__", None)
        if not isinstance(bound, types.ModuleType):
            yield self.of(bound)

    def _object(self, thing: Any) -> Parts:
        """Yield the class and the state of an object, as a pickle has them."""
        yield from self._all(filter(None, [getattr(thing, "__wrapped__", None)]))
        reduce = cloudpickle.Pickler.dispatch_table.get(type(thing))
        try:
            reduced = thing.__reduce_ex__(4) if reduce is None else reduce(thing)
        except Exception:  # of a user's class, or what no pickle can hold
            yield self.of(type(thing))
            return
        if isinstance(reduced, str):  # the name of something in a module
            yield from (getattr(thing, "__module__", ""), reduced)
            return
        for part in reduced:
            yield self.of(list(part) if isinstance(part, Iterator) else part)


_PLAIN = (bool, int, float, complex, str, range, type(NotImplemented))
_BUILT_IN = (
    *(types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType),
    *(types.MemberDescriptorType, types.GetSetDescriptorType, types.ClassMethodDescriptorType),
    types.MethodWrapperType,
)
# By kinds of Python's; the first that fits counts.
_HANDLERS: tuple[tuple[Any, Callable[[_Walk, Any], Parts]], ...] = (
    ((bytes, bytearray), lambda walk, thing: iter((bytes(thing),))),
    (type, _Walk._class),
    (types.FunctionType, _Walk._function),
    (types.CodeType, _Walk._code),
    (types.CellType, _Walk._cell),
    (types.ModuleType, _Walk._module),
    (_BUILT_IN, _Walk._built_in),
    ((staticmethod, classmethod), lambda walk, thing: walk._all((thing.__func__,))),
    (property, lambda walk, thing: walk._all((thing.fget, thing.fset, thing.fdel))),
    (functools.cached_property, lambda walk, thing: walk._all((thing.func,))),
    (types.MappingProxyType, _Walk._mapping),
    (np.ndarray, _Walk._array),
)
_EXACT: Mapping[type, Callable[[_Walk, Any], Parts]] = {
    **dict.fromkeys((list, tuple), _Walk._all),
    **dict.fromkeys((set, frozenset), _Walk._set),
    dict: _Walk._mapping,
}


def _globals_of(code: types.CodeType) -> list[str]:
    """Return the global names that code looks up, inner functions included."""
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    here = {
        i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    return sorted(here.union(*map(_globals_of, inner)))
