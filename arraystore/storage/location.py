"""Where a store is: a path, or a key in a bucket, on a web server or in an obstore store.

Text is parsed here and nowhere else; a `Location` is what every other module passes on.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote, unquote_to_bytes

from arraystore._arguments import as_path
from arraystore.errors import brief, escaped

if TYPE_CHECKING:
    from collections.abc import Mapping

    ObjectStore = Any
    Place = str | os.PathLike[str] | ObjectStore | tuple[ObjectStore, str]

KINDS: Final = {
    "file": "file",
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "azure": "az",
    "adl": "az",
    "abfs": "az",
    "abfss": "az",
    "http": "http",
    "https": "http",
    "memory": "memory",
}
"""Scheme of a URL, and the kind of its location."""

_URL: Final = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.IGNORECASE | re.DOTALL)
_FILE_URL: Final = re.compile(r"file:(?://([^/]*))?(/.*)?", re.IGNORECASE | re.DOTALL)
_HOST_OF_ACCOUNT: Final = re.compile(r"([\w-]+)\.(?:dfs|blob)\.core\.windows\.net")


@dataclass(frozen=True, slots=True)
class Location:
    """Where a store is, or is to be written. Get one from `Location.parse`.

    Two locations are equal if they are the same place, however each was written. Symbolic links
    and ``..`` in paths are not followed for that; `is_within` follows them.

    Attributes
    ----------
    kind : str
        ``"file"``, ``"s3"``, ``"gs"``, ``"az"``, ``"http"``, ``"memory"``, or ``"obstore"`` for a
        store that the caller opened.
    bucket : str
        The bucket or container; of a web server, its origin with a slash at the end.
    key : str
        The rest, without slashes at its ends; of a file, its absolute path.
    account : str
        The storage account that an Azure URL names, or empty.
    store : obstore store or None
        The store of kind ``"obstore"``.
    root : str
        The text in front of the key, as messages show it.
    login : str
        ``user:password`` of a web address, or empty.
    options : mapping of str to anything
        How to reach it; see `storage_options` of `arraystore.open`.
    """

    kind: str
    bucket: str
    key: str
    account: str = ""
    store: Any = field(default=None, repr=False, hash=False)
    root: str = field(default="", compare=False)
    login: str = field(default="", repr=False, compare=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def parse(
        cls, place: Place | Location, storage_options: Mapping[str, Any] | None = None
    ) -> Location:
        """Return the location that a path, a URL or an obstore store means.

        Parameters
        ----------
        place : path-like, str, obstore store, or pair of an obstore store and a key
            See `arraystore.open`. A `Location` is returned as it is.
        storage_options : mapping of str to anything, optional
            How to reach it; a copy is kept.

        Raises
        ------
        ValueError
            If a URL has an unknown scheme, names no bucket, is a file URL without an absolute
            path or of another host, or has a password or a query where neither can be used. The
            message does not repeat them.
        TypeError
            If `place` is none of the above.

        Examples
        --------
        >>> Location.parse("s3://bucket/a/b.zarr")
        Location(kind='s3', bucket='bucket', key='a/b.zarr', account='', root='s3://bucket/')
        >>> str(Location.parse("https://me:secret@example.org/a.h5"))
        'https://example.org/a.h5'
        >>> Location.parse("FILE://localhost/my%20data/b.zarr").path.as_posix()
        '/my data/b.zarr'
        """
        if isinstance(place, Location):
            return place
        return replace(_parsed(place), options={**(storage_options or {})})

    def __str__(self) -> str:
        """Return the location as messages and reports show it, without a password."""
        if self.kind != "http":
            return self.root + self.key
        return self.root + quote(self.key, safe="/!$&'()*+,;=:@~", errors="surrogatepass")

    def at(self, key: str) -> Location:
        """Return the location of another key beside this one."""
        return replace(self, key=key)

    @property
    def is_local(self) -> bool:
        """Whether it is a path."""
        return self.kind == "file"

    @property
    def path(self) -> Path:
        """The absolute path of a local location."""
        return Path(self.key)

    @property
    def suffix(self) -> str:
        """The suffix of the name, with its dot, as it was written."""
        return PurePosixPath(self.key).suffix

    def is_within(self, other: Location) -> bool:
        """Whether it is the same place as another, or a place in it; symbolic links are followed.

        Examples
        --------
        >>> Location.parse("s3://b/a.zarr/train").is_within(Location.parse("s3a://b/a.zarr"))
        True
        """
        mine, others = self._parts(), other._parts()
        return mine[: len(others)] == others

    def _parts(self) -> tuple[Any, ...]:
        if self.is_local:
            return self.kind, *self.path.resolve().parts
        return self.kind, self.bucket, self.store, *filter(None, self.key.split("/"))


def _parsed(place: Any) -> Location:
    if isinstance(place, str | os.PathLike):
        text = os.fsdecode(place)
        if _URL.match(text) or (isinstance(place, str) and _FILE_URL.match(text)):
            return _parsed_url(text)
        return Location("file", "", str(as_path(text).absolute()))
    store, key = place if isinstance(place, tuple) and len(place) == 2 else (place, "")
    if not (hasattr(store, "get_async") and hasattr(store, "head_async") and isinstance(key, str)):
        raise TypeError(f"must be a path, a URL or an obstore store, got {brief(place)}")
    root = f"<{type(store).__name__}>/"
    return Location("obstore", "", key.strip("/"), store=store, root=root)


def _parsed_url(text: str) -> Location:
    if match := _FILE_URL.match(text):
        return _file_location(text, *match.groups(""))
    scheme, rest = _URL.fullmatch(text).groups()  # type: ignore[union-attr] # it matched above
    scheme = scheme.lower()
    host, _, path = rest.partition("/")
    login, at, plain_host = host.rpartition("@")
    root = f"{scheme}://{plain_host}/"
    if scheme not in KINDS:
        raise ValueError(
            escaped(
                f"{root}{path.partition('?')[0]}: must be a path or begin with s3://, gs://, "
                "az://, https://, http://, file:// or memory://"
            )
        )
    kind = KINDS[scheme]
    if kind == "http":
        return _web_location(root.lower(), path, login)
    if kind == "memory":
        return Location(kind, "", rest.strip("/"), root="memory://")
    account = ""
    if at and kind == "az" and ":" not in login:
        named = _HOST_OF_ACCOUNT.match(plain_host)
        account = named[1] if named else plain_host.partition(".")[0]
        root, plain_host = f"{scheme}://{host}/", login
    elif at:
        raise ValueError(
            escaped(
                f"{root}{path}: must not contain a user or password; pass them as storage_options, "
                "or set them in the environment"
            )
        )
    if not plain_host:
        raise ValueError(escaped(f"{root}{path}: names no bucket; expected {scheme}://BUCKET/KEY"))
    return Location(kind, plain_host, path.strip("/"), account, root=root)


def _file_location(text: str, host: str, path: str) -> Location:
    """Return the location of a file URL (RFC 8089)."""
    if not path or host.lower() not in ("", "localhost"):
        raise ValueError(
            escaped(
                f"{text}: a file URL must have an absolute path and no host except localhost, as "
                "in file:///data/store"
            )
        )
    return Location("file", "", str(Path(os.fsdecode(unquote_to_bytes(os.fsencode(path))))))


def _web_location(root: str, path: str, login: str) -> Location:
    path, query, _ = path.partition("?")
    if query:
        raise ValueError(
            escaped(
                f"{root}{path}: must not have a query (the part after '?', as in a signed URL), "
                "because a store may have many objects; pass credentials as storage_options"
            )
        )
    return Location("http", root, unquote(path).strip("/"), root=root, login=unquote(login))
