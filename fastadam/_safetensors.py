"""Checkpoints in safetensors files, which that library reads and writes.

What is in them is said in `_files`, which calls this for names that end in ``.safetensors``.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from fastadam import _files
from fastadam._types import Array


def _library() -> Any:
    try:
        importlib.import_module("safetensors.numpy")
    except ImportError:
        raise ImportError(
            "files named .safetensors need the safetensors library: pip install safetensors"
        ) from None
    return importlib.import_module("safetensors")


def _ml_dtypes(path: str) -> Any:
    try:
        return importlib.import_module("ml_dtypes")
    except ImportError:
        raise ImportError(
            f"{path} holds bfloat16, for which the safetensors library needs ml_dtypes: "
            "pip install ml_dtypes"
        ) from None


def write(path: str, text: bytes, arrays: Mapping[str, Array]) -> None:
    """Write arrays, and the JSON that describes them, as `_files.write` does."""
    library = _library()
    if "__metadata__" in arrays:
        raise ValueError(f"{path}: safetensors has no array of the name '__metadata__'")
    content = {name: _real(_files.little(array)) for name, array in arrays.items()}
    metadata = {
        "fastadam": text.decode(),
        "version": str(_files.VERSION),
        "crc32": _metadata_sum(text, content.values()),
    }
    for name, array in content.items():
        if _files.spec_of(array).dtype == _files.BFLOAT16:
            content[name] = array.view(_ml_dtypes(path).bfloat16)
    with _files.replacing(path) as temporary:
        mode = os.stat(temporary).st_mode
        try:
            library.numpy.save_file(content, temporary, metadata)
        except library.SafetensorError as error:
            raise OSError(errno.EIO, str(error), path) from error
        os.chmod(temporary, mode)  # the library makes a new file that is the user's alone


def read(path: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """The header and the arrays of a file, all of it checked."""
    library = _library()
    open(path, "rb").close()  # so that errors such as FileNotFoundError are those of open()
    try:
        with library.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if not {"fastadam", "version", "crc32"} <= set(metadata):
                raise ValueError("not a fastadam checkpoint")
            version = metadata["version"]
            is_number = re.fullmatch("[1-9][0-9]{0,9}", version)
            _files.check_version(int(version) if is_number else version)
            text = metadata["fastadam"].encode()
            header, specs, _ = _files.parse(text)
            names = file.keys()
            found = {name: _library_spec(file.get_slice(name)) for name in names}
            if found != {name: _real_spec(spec) for name, spec in specs.items()}:
                raise ValueError("damaged (its arrays are not those that its metadata describe)")
            if any(spec.dtype == _files.BFLOAT16 for spec in specs.values()):
                _ml_dtypes(path)
            content = {name: file.get_tensor(name) for name in specs}
    except library.SafetensorError as error:
        raise ValueError(_reason(path, error)) from None
    if metadata["crc32"] != _metadata_sum(text, content.values()):
        raise ValueError(_files.DAMAGED)
    return header, {
        name: _files.native(content[name].reshape(-1).view(_files.STORED[dtype]).reshape(shape))
        for name, (shape, dtype) in specs.items()
    }


def _metadata_sum(text: bytes, arrays: Iterable[Array]) -> str:
    """The checksum that stands in a safetensors file's metadata."""
    return f"{zlib.crc32(_files.stream(lambda piece: None, arrays), zlib.crc32(text)):08x}"


def _library_spec(stored: Any) -> _files.Spec:
    """What the safetensors library says of an array that it has not read yet."""
    dtype: str = stored.get_dtype()
    ours = {theirs: name for name, theirs in _files.DTYPES.items() if theirs}
    return _files.Spec(tuple(stored.get_shape()), ours.get(dtype, dtype))


def _real_spec(spec: _files.Spec) -> _files.Spec:
    """The spec that a safetensors file stores: of a complex array, with an axis for its parts."""
    real = {"<c8": "<f4", "<c16": "<f8"}
    return _files.Spec((*spec.shape, 2), real[spec.dtype]) if spec.dtype in real else spec


def _real(array: Array) -> Array:
    """The array as a safetensors file stores it; it shares its memory."""
    shape, dtype = _real_spec(_files.spec_of(array))
    return array.reshape(-1).view(_files.STORED[dtype]).reshape(shape)


def _reason(path: str, error: Exception) -> str:
    """What is wrong with a file that the safetensors library refuses."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        n_text = int.from_bytes(file.read(8), "little")
        text = file.read(min(n_text, size))
    if not text.startswith(b"{"):
        return "not a fastadam checkpoint"
    expected = 8 + n_text
    if len(text) == n_text:
        try:
            entries = json.loads(text)
            entries.pop("__metadata__", None)
            expected += max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return f"damaged ({error})"
    return _files.truncated(size, expected) if size < expected else f"damaged ({error})"
