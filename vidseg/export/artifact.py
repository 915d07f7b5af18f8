"""Description of an exported model: task, network, classes, input, tensors, versions, and the result of its replay.

It is JSON. An ONNX file stores it as the metadata entry "vidseg", a .pt2 archive as a member, and the other formats in
a file <name>.json beside the model.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any

from vidseg.engine.run_record import check_record
from vidseg.models import InputSpec

__all__ = ["Artifact", "TensorSpec", "read_artifact", "write_artifact"]

_KEY = "vidseg"
_MEMBER = "vidseg.json"
_MOST_BYTES = 64 << 20
_MOST_VALUES = 1 << 31
_METADATA_FIELD = 14  # metadata_props of onnx.ModelProto
_TYPES = {"float32", "float64", "int64", "int32", "uint8", "bool"}


@dataclass(frozen=True)
class TensorSpec:
    """An input of an exported model.

    Attributes:
        name: of the input.
        dtype: name of its torch type.
        shape: its sizes; a name such as "batch" where the size is variable.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({', '.join(map(str, self.shape))})"


@dataclass(frozen=True)
class Artifact:
    """Description of an exported model.

    Attributes:
        format: "onnx", "openvino", "aoti", "torch", "tensorrt".
        precision: "fp32", "fp16", "bf16", "int8": type in which the model computes. Its inputs and outputs are float32
            for each of them.
        task: task of the network.
        network: name of the network.
        network_options: options that the network was created with.
        classes: class names by number.
        input: how the network sees pictures.
        stride: frames from one window of a stream to the next; None for networks without windows.
        inputs: tensors of a call, in order.
        outputs: names of the results, in order.
        attributes: attributes of the network that tests and predictions read, such as `in_features`.
        parameters: number of weights.
        epoch: finished epochs of the weights; None: not known.
        score: validation score of the run when the weights were written; None: not known.
        record: record of the run; empty for weights without a run.
        versions: versions of the packages that wrote the model.
        replay: result of the comparison with the network, see `vidseg.export.Replay`.
    """

    format: str
    precision: str
    task: str
    network: str
    network_options: dict[str, Any]
    classes: list[str]
    input: InputSpec
    stride: int | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    parameters: int
    epoch: int | None = None
    score: Any = None
    record: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    replay: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the description as JSON."""
        return json.dumps(asdict(self) | {"input": self.input.as_dict()})

    @classmethod
    def from_json(cls, text: str | bytes, place: str) -> Artifact:
        """Read a description.

        Args:
            text: JSON.
            place: file, for messages.

        Raises:
            ValueError: it is not the description of an exported model.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place}: its description is not JSON: {error}") from error
        known = {one.name for one in fields(cls)}
        if not isinstance(values, dict) or not set(values) <= known:
            raise ValueError(f"{place}: its description is not one that `vidseg export` writes; export it again")
        missing = sorted(name for name in _REQUIRED if not isinstance(values.get(name), _REQUIRED[name]))
        if missing:
            raise ValueError(f"{place}: its description has no valid {', '.join(missing)}; export it again")
        for name in ("record", "versions", "replay"):
            if not isinstance(values.get(name, {}), dict):
                raise ValueError(f"{place}: {name} is {values[name]!r:.80}, expected an object")
        if values.get("record"):
            check_record(values["record"], place)
        try:
            values["input"] = InputSpec.from_dict(values["input"])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{place}: {error}") from error
        values["inputs"] = tuple(_tensor_spec(one, place) for one in values["inputs"])
        for name in ("outputs", "classes"):
            wrong = [one for one in values[name] if not isinstance(one, str)]
            if wrong:
                raise ValueError(f"{place}: {name} has {wrong[0]!r:.80}, expected names")
        values["outputs"] = tuple(values["outputs"])
        wrong = [name for name, value in values["attributes"].items() if not isinstance(value, int)]
        if wrong:
            raise ValueError(f"{place}: attribute {wrong[0]!r:.80} is not a number")
        for name in ("stride", "epoch"):
            if not isinstance(values.get(name), int | None):
                raise ValueError(f"{place}: {name} is {values[name]!r:.80}, expected a number")
        return cls(**values)


_REQUIRED: dict[str, type] = {
    "format": str,
    "precision": str,
    "task": str,
    "network": str,
    "network_options": dict,
    "classes": list,
    "input": dict,
    "inputs": list,
    "outputs": list,
    "attributes": dict,
    "parameters": int,
}


def _tensor_spec(values: Any, place: str) -> TensorSpec:
    if not isinstance(values, Mapping) or set(values) != {"name", "dtype", "shape"}:
        raise ValueError(f"{place}: an input is {values!r:.80}, expected name, dtype and shape")
    name, dtype, shape = values["name"], values["dtype"], values["shape"]
    sizes = isinstance(shape, list) and all(isinstance(one, str) or (type(one) is int and one >= 0) for one in shape)
    if not isinstance(name, str) or dtype not in _TYPES or not sizes:
        raise ValueError(f"{place}: an input is {values!r:.80}, expected name, dtype and shape")
    if math.prod(one for one in shape if isinstance(one, int)) > _MOST_VALUES:
        raise ValueError(f"{place}: the input {name!r:.80} has the sizes {shape!r:.80}, more than fit into memory")
    return TensorSpec(name, dtype, tuple(shape))


def write_artifact(artifact: Artifact, path: Path) -> None:
    """Add the description to an exported model.

    Args:
        artifact: description.
        path: file of the model, or folder of a model repository.
    """
    text = artifact.to_json()
    if path.is_dir():  # a model repository, whose ONNX file describes itself
        (path,) = path.glob("*/1/model.onnx")
    if path.suffix == ".onnx":
        # The fields of a protobuf message may follow each other in any order, so an entry can be appended to the file.
        entry = _field(1, _KEY.encode()) + _field(2, text.encode())
        with path.open("ab") as file:
            file.write(_field(_METADATA_FIELD, entry))
    elif path.suffix == ".pt2":
        with zipfile.ZipFile(path, "a") as archive:
            folder = archive.namelist()[0].partition("/")[0]
            archive.writestr(f"{folder}/{_MEMBER}", text)
    else:
        path.with_suffix(".json").write_text(text)


def read_artifact(path: str | Path) -> Artifact:
    """Read the description of an exported model; the model is not loaded, and no code of the file runs.

    Args:
        path: .onnx, .xml (OpenVINO), .pt2 (AOTInductor or `torch.export`) or .engine (TensorRT).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or not one that `vidseg export` wrote.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix == ".onnx":
        text = _onnx_metadata(path)
    elif path.suffix == ".pt2":
        text = _member(path)
    else:
        beside = path.with_suffix(".json")
        if not beside.is_file():
            raise FileNotFoundError(f"{beside}: no such file; it describes {path.name} and must be beside it")
        if beside.stat().st_size > _MOST_BYTES:
            raise ValueError(f"{beside}: has {beside.stat().st_size} bytes, at most {_MOST_BYTES} are read")
        text = beside.read_bytes()
    if text is None:
        raise ValueError(f"{path}: has no description of its classes and input; only files of `vidseg export` have one")
    return Artifact.from_json(text, str(path))


def _member(path: Path) -> bytes | None:
    try:
        with zipfile.ZipFile(path) as archive:
            found = [one for one in archive.infolist() if one.filename.split("/")[1:] == [_MEMBER]]
            if not found:
                return None
            if found[-1].file_size > _MOST_BYTES:
                raise ValueError(f"{path}: its description has {found[-1].file_size} bytes, at most {_MOST_BYTES}")
            return archive.read(found[-1])
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path}: not a .pt2 archive, or damaged: {error}") from error


def _field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message that has a length."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _onnx_metadata(path: Path) -> bytes | None:
    """The description in an ONNX file; the graph and its weights are passed over."""
    found = None
    with path.open("rb") as file:
        for number, size in _fields(file, path.stat().st_size, path):
            if number != _METADATA_FIELD:
                file.seek(size, 1)
                continue
            if size > _MOST_BYTES:
                raise ValueError(f"{path}: a metadata entry has {size} bytes, at most {_MOST_BYTES} are read")
            start, entry = file.tell(), {}
            for key, length in _fields(file, start + size, path):
                entry[key] = file.read(length)
            if entry.get(1) == _KEY.encode():
                found = entry.get(2)
    return found


def _fields(file: IO[bytes], end: int, path: Path) -> Iterator[tuple[int, int]]:
    """Yield the number and size of each field that has a length, before its content; others are passed over."""
    while file.tell() < end:
        number, kind = divmod(_read_varint(file, path), 8)
        if kind == 0:
            _read_varint(file, path)
        elif kind in (1, 5):
            file.seek(8 if kind == 1 else 4, 1)
        elif kind == 2:
            size = _read_varint(file, path)
            if file.tell() + size > end:
                raise ValueError(f"{path}: truncated, or not an ONNX file")
            yield number, size
        else:
            raise ValueError(f"{path}: not an ONNX file")


def _read_varint(file: IO[bytes], path: Path) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError(f"{path}: truncated, or not an ONNX file")
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise ValueError(f"{path}: not an ONNX file")
