from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NoReturn

import numpy as np

from fastadam import _checkpoint, _files, _generators, _groups
from fastadam._arrays import Arrays
from fastadam._checks import name_of
from fastadam._codecs import codes_of
from fastadam._hyper import Group
from fastadam._slots import Slot
from fastadam._state import write_state
from fastadam._types import Array
from fastadam.mpi import _saving
from fastadam.mpi._ranks import Ranks
from fastadam.optimizer import Optimizer


class MpiOptimizer(Optimizer):
    """What the optimizers of several ranks share: how they are made, and that all do the same.

    Parameters
    ----------
    params : ndarray, nesting of ndarray, or list of param groups
    optimizer_class : type
    comm : mpi4py.MPI.Intracomm or None
    settings : mapping
        What ranks must agree on besides the options: for each name a check and the value.
    options : dict
        Those of `optimizer_class`.
    """

    _ranks: Ranks
    _settings: dict[str, Any]
    _name: str  # of the class

    def __init__(
        self,
        params: Any,
        optimizer_class: type[Optimizer],
        comm: Any,
        settings: Mapping[str, tuple[Callable[[str, Any], Any], Any]],
        options: dict[str, Any],
    ) -> None:
        known: dict[str, Any] = vars(self)  # as Optimizer.__setattr__ asks for the rule
        known["_ranks"] = Ranks(comm)
        make = super().__init__

        def begin() -> None:
            _check_class(optimizer_class)
            known.update(_rule=optimizer_class._rule, _fixed=optimizer_class._fixed)
            self._name = optimizer_class.__name__
            self._settings = {key: check(key, value) for key, (check, value) in settings.items()}
            # One of a single number checks the options, and says what they are by default.
            dtype = np.float64 if options.get("state_dtype") is None else np.float32
            example = optimizer_class(np.zeros(1, dtype), **options)
            clip = options.get("max_grad_norm"), options.get("skip_nonfinite", False)
            make(params, example.defaults, *clip, example._ema_decay)

        self._ranks.together(type(self).__name__, begin)
        settings_of_all = [self._name, self._settings, self._clip, self._ema_decay, self._forms()]
        self._ranks.agree(type(self).__name__, None, settings_of_all)

    def _forms(self) -> list[Any]:
        """What must be the same on all ranks, for steps to be possible."""
        groups = [
            sorted((key, value) for key, value in group.items() if key not in ("params", "lr"))
            for group in self.param_groups
        ]
        arrays = [
            (
                "params" + slot.suffix,
                (slot.key, slot.group, name_of(slot.user.dtype), self._form(slot)),
            )
            for slot in self._batch.arrays.slots
        ]
        return [groups, arrays]

    def _form(self, slot: Slot) -> Any:
        """What must be the same of an array."""
        raise NotImplementedError

    def _refuse_step(self, error: Exception) -> NoReturn:
        self._ranks.refuse("step", error)

    def _hold(self, call: str) -> AbstractContextManager[Any]:
        return self._ranks.hold(call, self._lock)

    def _class_name(self) -> str:
        return self._name

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Refused: the ranks agree when the optimizer is made.

        Raises
        ------
        TypeError
        """
        raise TypeError("give all param groups to the constructor, where the ranks agree")

    def save(self, path: str | os.PathLike[str], *, params: bool = False, rng: Any = None) -> None:
        """Write a checkpoint of all ranks, as one file, in place of an older one or not at all.

        Each rank writes its part. The file is the one that `optimizer_class` writes on one machine
        without MPI. It loads there, and on any number of ranks.

        Parameters
        ----------
        path : str or path-like
            As in `Adam.save`, in a folder that all ranks see. What rank 0 is called with counts. A
            file that ends in ``.safetensors`` is written by rank 0, which gets all state for it.
        params : bool, optional
            Whether the parameters are saved, too.
        rng : numpy.random.Generator or RandomState, or list of them, optional
            Random generators whose states are saved, too. They must be in the same state on all
            ranks, since the file may be loaded on more or fewer of them.

        Raises
        ------
        OSError, TypeError, ValueError, ImportError
            As in `Adam.save`, on all ranks, if it fails on any.
        RuntimeError
            The ranks do not all call this, or their generators are in different states.

        Notes
        -----
        The file is written beside the old one, checked and synced by all ranks, and then renamed
        by rank 0: whichever rank dies at whatever moment, the old or the new one is there, whole.

        Examples
        --------
        >>> import os, tempfile
        >>> import numpy as np
        >>> import fastadam
        >>> from fastadam.mpi import ZeroRedundancyOptimizer
        >>> path = os.path.join(tempfile.mkdtemp(), "adam.ckpt")
        >>> opt = ZeroRedundancyOptimizer(np.ones(2), fastadam.Adam, lr=0.1)
        >>> opt.step(np.ones(2))
        >>> opt.save(path, params=True)
        >>> again = fastadam.Adam(np.zeros(2))
        >>> again.load(path)
        >>> again.params
        array([0.9, 0.9])
        """
        with self._hold("save"):
            name, found = self._begin_to_save(path, params, rng)
            slots = self._stand_ins()

            def pack() -> _saving.Content | None:
                if slots is None:
                    return None
                state = write_state(self._arranged(slots), self._counts(), self.param_groups)
                wholes = None if found is None else self._whole_params(found)
                generators = _generators.as_list(rng)
                return _checkpoint.pack(self._class_name(), state, wholes, generators)

            content = self._ranks.together("save", pack)
            if name.endswith(_files.SAFETENSORS):
                _saving.write_at_once(self._ranks, name, content, self._parts(found))
            else:
                _saving.write(self._ranks, name, content, self._parts(found))

    def _begin_to_save(
        self, path: str | os.PathLike[str], params: bool, rng: Any
    ) -> tuple[str, list[Array] | None]:
        """Rank 0's path and the parameters of this rank, once all ranks want to save the same."""
        arrays = self._held_batch().arrays

        def begin() -> tuple[str, list[Array] | None, list[Any]]:
            arrays.check_groups(self.param_groups)
            name = os.fsdecode(path)
            _files.check_ending(name)
            found = list(map(codes_of, _groups.found_params(arrays))) if params else None
            return name, found, list(map(_generators.state_of, _generators.as_list(rng)))

        name, found, states = self._ranks.together("save", begin)
        self._ranks.agree("save", None, {"params": params, "rng": states})
        return self._ranks.comm.bcast(name), found

    def _stand_ins(self) -> list[Slot] | None:
        """On rank 0 the slots of the whole arrays, with stand-ins for their state."""
        raise NotImplementedError

    def _whole_params(self, found: list[Array]) -> list[Array]:
        """Stand-ins for the whole parameters."""
        raise NotImplementedError

    def _parts(self, found: list[Array] | None) -> Iterator[_saving.Part]:
        """This rank's parts of the state and, if they are given, of the parameters."""
        raise NotImplementedError

    def load(
        self, path: str | os.PathLike[str], *, params: bool | None = None, rng: Any = None
    ) -> None:
        """Take over a checkpoint of any number of ranks, or of one machine; see `Adam.load`.

        Parameters
        ----------
        path : str or path-like
            A file that every rank can read, and the same for all. Each reads what it needs of it,
            but for files that end in ``.safetensors``, of which each reads all.
        params, rng
            As there.

        Raises
        ------
        OSError, TypeError, ValueError, KeyError, ImportError
            As there, if it fails on any rank; nothing was changed on any.
        RuntimeError
            The ranks do not all call this, or with other `params`, or have different files.

        Examples
        --------
        See `save`.
        """
        ranks = self._ranks

        def opened() -> _files.Mapped:
            if os.fsdecode(path).endswith(_files.SAFETENSORS):
                header, arrays = _files.read(path)  # which checks them
                table = b"".join(map(_files.sums_of, arrays.values()))
                return _files.Mapped(header, arrays, np.empty(0, np.uint8), table)
            return _files.mapped(path)

        with self._hold("load"):
            file = ranks.together("load", opened)
            ranks.agree("load", None, {"params": params, "file": _digest(file)})

            def check() -> None:
                with _files.naming(path):
                    file.check(ranks.rank, ranks.size)

            def prepare() -> Any:
                with _files.naming(path):
                    generators = None if rng is None else _generators.as_list(rng)
                    return self._loaded_file(file.header, file.arrays, params, generators)

            ranks.together("load", check)
            self._put_in_place("load", prepare)

    def _put_in_place(self, call: str, prepare: Callable[[], Any]) -> None:
        """Put in place what `prepare` gives, if no rank has an error."""
        self._replace(*self._ranks.together(call, prepare))

    def _arranged(self, slots: Sequence[Slot]) -> Arrays:
        """The optimizer's arrays with other slots."""
        arrays = self._held_batch().arrays
        return _groups.arranged(
            self._rule, arrays.specs, arrays.nests, slots, self._ema_decay, arrays.grouped
        )

    def __getstate__(self) -> NoReturn:
        raise TypeError("a part of the ranks cannot be copied or pickled; use state_dict or save")

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        self.__getstate__()


def _digest(file: _files.Mapped) -> str:
    """What files with the same content have in common."""
    return f"{zlib.crc32(file.table, zlib.crc32(repr(file.header).encode())):08x}"


def check_modes(groups: Sequence[Group]) -> None:
    """Check that parameters are where steps begin, as ranks cannot move them there."""
    if not all(group.get("train_mode", True) for group in groups):
        raise ValueError(
            "the parameters are where the model is evaluated, and on several ranks there is no "
            "train() to leave that; call it before the state is saved"
        )


def _check_class(found: Any) -> None:
    """Check that the class of which there is to be an optimizer is one of fastadam's for arrays."""
    is_class = isinstance(found, type) and issubclass(found, Optimizer)
    if not is_class or not hasattr(found, "_rule"):
        raise TypeError(f"optimizer_class is {found!r}; expected a class such as fastadam.AdamW")
