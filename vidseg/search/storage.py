"""The storage of a search: an Optuna study in OUT/search.db, with the description of the search that it is of."""

from __future__ import annotations

import fcntl
import hashlib
import json
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from vidseg.frames.whole_file import NO_LOCKS
from vidseg.search.scores import Objective

__all__ = [
    "STORAGE",
    "create_storage",
    "make_pruner",
    "make_sampler",
    "only_search",
    "open_storage",
    "read_description",
]

STORAGE = "search.db"
DESCRIPTION = "vidseg"
"""User attribute of the study that holds the description."""
_STUDY = "search"
_STARTUP = (3, 10)
"""Fewest and most random trials before the first one that depends on results; half of the trials between them."""


def load_optuna() -> Any:
    """Return the module of Optuna, without its own log.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError('vidseg search needs Optuna: pip install "vidseg[search]"') from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


@contextmanager
def only_search(out: Path) -> Iterator[None]:
    """Exclude two searches in one folder.

    Raises:
        OSError: another process searches there.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".search.lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(f"{out}: another process is searching in this folder; wait for its end") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield


def open_storage(out: Path) -> Any:
    """Return the study of an existing search.

    Raises:
        ValueError: the file is not the storage of a search.
    """
    optuna, path = load_optuna(), out / STORAGE
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{path}: not the storage of a search ({error}); remove it, or use another --out") from error
    if "studies" not in tables:  # Optuna would add its tables to a database of another program
        raise ValueError(f"{path}: not the storage of a search; use another --out")
    import sqlalchemy

    try:
        return optuna.load_study(study_name=_STUDY, storage=_url(path))
    except KeyError:
        raise ValueError(f"{path}: holds no search of `vidseg search`; use another --out") from None
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, AssertionError) as error:
        raise ValueError(f"{path}: not the storage of a search ({_sentence(error)}); use another --out") from error


def create_storage(out: Path, description: Mapping[str, Any], objectives: tuple[Objective, ...]) -> Any:
    """Return the study of a search, which is made where there is none.

    Args:
        out: folder of the search.
        description: what the search is.
        objectives: what it improves.

    Raises:
        ValueError: the folder holds another search; names the difference.
    """
    optuna, path = load_optuna(), out / STORAGE
    if path.is_file() and path.stat().st_size:
        study = open_storage(out)
        if DESCRIPTION in study.user_attrs:
            _check_same(read_description(study, out), description, path)
            return study
        if study.get_trials(deepcopy=False):
            raise ValueError(f"{path}: holds trials of another program than `vidseg search`; use another --out")
    else:
        study = optuna.create_study(
            study_name=_STUDY, storage=_url(path), directions=[one.direction for one in objectives]
        )
    study.set_user_attr(DESCRIPTION, json.dumps(dict(description)))
    return study


def read_description(study: Any, out: Path) -> dict[str, Any]:
    """Return the description of a search.

    Raises:
        ValueError: the study has none.
    """
    text = study.user_attrs.get(DESCRIPTION)
    if text is None:
        raise ValueError(f"{out / STORAGE}: holds trials of another program than `vidseg search`; use another --out")
    found: dict[str, Any] = json.loads(text)
    return found


def _check_same(known: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    wanted = json.loads(json.dumps(dict(wanted)))
    for name in wanted:
        if known.get(name) != wanted[name]:
            old, new = _difference(known.get(name), wanted[name])
            raise ValueError(
                f"{path}: is of another search: its {name} is {old}, now it is {new}; "
                "continue it with its own file, use another --out, or --overwrite it"
            )


def _difference(old: Any, new: Any) -> tuple[str, str]:
    """Two values as texts; of mappings only the entries that differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        old, new = ({name: each.get(name) for name in names} for each in (old, new))
    return json.dumps(old, ensure_ascii=False), json.dumps(new, ensure_ascii=False)


def _url(path: Path) -> str:
    return f"sqlite:///{path.resolve()}"


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def trial_seed(seed: int, number: int) -> int:
    """Return the seed of the sampler for one trial, a function of the seed of the search and its number alone."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {number}".encode(), digest_size=4).digest(), "big") >> 1


def startup_trials(trials: int | None) -> int:
    """Return the number of random trials before the first one that depends on results.

    Args:
        trials: of the search; None: no limit.
    """
    fewest, most = _STARTUP
    return most if trials is None else min(most, max(fewest, trials // 2))


def make_sampler(method: str, *, trials: int | None, seed: int, parallel: bool, conditions: bool) -> Any:
    """Return the sampler of one trial.

    Args:
        method: "tpe", "random", "grid" or "nsga2".
        trials: of the search; None: no limit.
        seed: of this trial.
        parallel: whether other trials run meanwhile.
        conditions: whether parameters have conditions.
    """
    samplers = load_optuna().samplers
    if method in ("random", "grid"):
        return samplers.RandomSampler(seed=seed)
    if method == "nsga2":
        return samplers.NSGAIISampler(seed=seed, population_size=2 * startup_trials(trials))
    return samplers.TPESampler(
        seed=seed,
        n_startup_trials=startup_trials(trials),
        multivariate=True,
        group=conditions,
        constant_liar=parallel,
    )


def make_pruner(name: str, *, trials: int | None, validations: int) -> Any:
    """Return a pruner.

    Args:
        name: "none", "median" or "hyperband".
        trials: of the search; None: no limit.
        validations: number of validations of a whole trial.
    """
    pruners = load_optuna().pruners
    if name == "median":
        return pruners.MedianPruner(n_startup_trials=startup_trials(trials), n_warmup_steps=max(2, validations // 3))
    if name == "hyperband":
        return pruners.HyperbandPruner(min_resource=1, max_resource=max(1, validations), reduction_factor=3)
    return pruners.NopPruner()
