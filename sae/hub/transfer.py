"""Dictionaries on the Hugging Face hub, as hf://user/repo[@revision]/path: fetched, and published.

All is done by huggingface_hub, which keeps what it has fetched, and finds it there without network.
"""

import glob
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast
from urllib.parse import quote, unquote

from activation_cache.common.errors import InputError

SCHEME = "hf://"

ABOVE = ("cfg.json", "config.json", "config.yaml", "means.pt")
"""What layouts look for in the folders above what is named, beside `NAME_cfg.json`."""

DOWNLOAD = ", or download it elsewhere and name the local folder instead"
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token that may do this"


@dataclass(frozen=True, kw_only=True)
class HubPath:
    """What a hf:// address names: a folder or a file of a repository, or all that it has on top."""

    repo: str
    revision: str | None = None
    path: str = ""

    @classmethod
    def parse(cls, address: str) -> "HubPath":
        """`InputError` where the address names no repository, or leaves it."""
        user, _, rest = address.removeprefix(SCHEME).partition("/")
        repo, _, path = rest.partition("/")
        name, _, revision = repo.partition("@")
        parts = path.strip("/").split("/") if path.strip("/") else []
        at_sign_without = "@" in repo and not revision
        if not (user and name) or at_sign_without or {"", ".", ".."} & set(parts):
            raise InputError(
                f"{address} names no dictionary on the hub: write {SCHEME}user/repo/path, or "
                f"{SCHEME}user/repo@revision/path"
            )
        return cls(repo=f"{user}/{name}", revision=unquote(revision) or None, path="/".join(parts))

    def __str__(self) -> str:
        revision = f"@{quote(self.revision, safe='')}" if self.revision else ""
        return f"{SCHEME}{self.repo}{revision}" + (f"/{self.path}" if self.path else "")


@dataclass(frozen=True)
class Fetched:
    """A local copy, and the commit that it is of."""

    path: Path
    revision: str


def is_on_hub(path: str | Path) -> bool:
    return str(path).startswith(SCHEME)


def fetch(address: str) -> Fetched:
    """Download what an address names, if it is not here. `InputError` where that cannot be done."""
    wanted = HubPath.parse(address)
    path = glob.escape(wanted.path)
    inside = f"{path}/" if path else ""
    allow = [f"{inside}*"]
    if path:
        above = PurePosixPath(path).parents[:2]
        allow += [path, f"{path.removesuffix('.pt')}_cfg.json"]
        allow += [str(folder / name) for folder in above for name in ABOVE]
    folder = _snapshot(wanted, wanted.revision, allow, [f"{inside}*/*"])
    if (folder / wanted.path / "hyperparams.json").is_file():  # whose weights lie in a folder
        below = f"{inside}checkpoints/*"
        _snapshot(wanted, folder.name, [below], [f"{below}/*"])
    found = folder / wanted.path
    if not found.exists():
        raise InputError(
            f"{wanted.repo} on the hub has no {wanted.path} (commit {folder.name[:8]}): look at "
            f"the repository's files, and name one, or a folder of them"
        )
    return Fetched(found, folder.name)


def _snapshot(wanted: HubPath, revision: str | None, allow: list[str], ignore: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    with _described(wanted, DOWNLOAD):
        folder = snapshot_download(
            wanted.repo, revision=revision, allow_patterns=allow, ignore_patterns=ignore
        )
    return Path(folder)


def publish(
    files: Mapping[str, bytes | Path], to: HubPath, *, message: str, private: bool = False
) -> str:
    """Commit files to a repository, which is made if there is none; the address of the commit."""
    from huggingface_hub import CommitOperationAdd, HfApi

    prefix = f"{to.path}/" if to.path else ""
    with _described(to, ""):
        api = HfApi()
        api.create_repo(to.repo, private=private or None, exist_ok=True)
        if to.revision:
            api.create_branch(to.repo, branch=to.revision, exist_ok=True)
        commit = api.create_commit(
            to.repo,
            [
                CommitOperationAdd(path_in_repo=prefix + name, path_or_fileobj=content)
                for name, content in files.items()
            ],
            commit_message=message,
            revision=to.revision,
        )
    return commit.commit_url


@contextmanager
def _described(wanted: HubPath, otherwise: str) -> Iterator[None]:
    """Say in one line what the hub's client raises; its warnings say nothing more."""
    from huggingface_hub import errors
    from huggingface_hub.utils import logging

    # that of the HTTP client, which is not the same one in all versions
    http_error = cast(type[Exception], errors.HfHubHTTPError.__mro__[1])
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except (http_error, OSError, ValueError, AssertionError) as error:
        raise InputError(_what_happened(error, wanted, otherwise)) from error
    finally:
        logging.set_verbosity(verbosity)


def _what_happened(error: Exception, wanted: HubPath, otherwise: str) -> str:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    match error:
        case errors.HFValidationError():
            return f"{wanted} cannot be a repository of the hub: {error}"
        case errors.RevisionNotFoundError():
            known = "name a branch, a tag or a commit"
            return f"{wanted.repo} on the hub has no revision {wanted.revision}: {known}"
        case errors.GatedRepoError():
            return f"the owner of {wanted.repo} lets in who asks on its page: do, then {LOG_IN}"
        case errors.RepositoryNotFoundError():
            return (
                f"the hub shows no repository {wanted.repo} (status {status}): correct the name, "
                f"or if it is private {LOG_IN}"
            )
        case errors.HfHubHTTPError():
            remedy = LOG_IN if status in (401, 403) else f"try again later{otherwise}"
            return f"the hub answered {wanted} with status {status}: {remedy}"
    return f"cannot reach {wanted} ({_reason(error)}): go online or fix that{otherwise}"


def _reason(error: BaseException) -> str:
    """What began it: what the system says, or the kind alone, as words may quote headers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return getattr(error, "strerror", None) or type(error).__name__
