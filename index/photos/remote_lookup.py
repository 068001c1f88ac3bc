"""Which photos behind URLs are there: one listing per folder in place of a request for each."""

from __future__ import annotations

from delg.errors import UsageError
from delg.paths import Presence, presence
from delg.remote_path import RemotePath


class FolderLookup:
    """Looks at URLs, best in the order of their folders.

    Only what a listing names is taken from it; whatever else is asked for by itself. A server that
    cannot be reached is not asked again.
    """

    def __init__(self) -> None:
        self._folder: RemotePath | None = None
        self._files: set[RemotePath] = set()
        self._unreachable: dict[RemotePath, Presence] = {}

    def presence(self, url: str) -> Presence:
        """See :func:`delg.paths.presence`."""
        try:
            path = RemotePath.parse(url)
        except UsageError as error:  # Catalogs may name URLs that are not read.
            return Presence("unreachable", str(error))
        if path.parent != self._folder:
            self._list(path.parent)
        if path in self._files:
            return Presence("file")
        return self._unreachable.get(path.root) or presence(path)

    def _list(self, folder: RemotePath) -> None:
        from delg.remote_files import list_folder

        self._folder, self._files = folder, set()
        if folder.root in self._unreachable:
            return
        try:
            self._files = {entry.path for entry in list_folder(folder) if not entry.is_folder}
        except FileNotFoundError:
            pass  # Web servers may have no page of their photos.
        except UsageError as error:
            self._unreachable[folder.root] = Presence("unreachable", str(error))
        except OSError as error:
            state = presence(folder.root)
            if state.kind == "unreachable":
                self._unreachable[folder.root] = Presence("unreachable", error.strerror or "")
