"""A checkout refuses an extension that was built from other sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge import _native
from bridge.errors import RelayError
from bridge.media import native_relay

CRATE = Path(native_relay.__file__).parent.parent / "native"


def test_the_digest_of_the_sources_is_the_one_that_was_built_in() -> None:
    assert native_relay.source_digest(CRATE) == _native.SOURCE_DIGEST


def test_a_changed_source_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    for name in ("src/lib.rs", "Cargo.toml", "build.rs"):
        (tmp_path / name).write_text("first")
    built_from = native_relay.source_digest(tmp_path)
    native_relay.refuse_stale_build(tmp_path, built_from)
    (tmp_path / "src" / "lib.rs").write_text("second")
    with pytest.raises(RelayError, match="make build"):
        native_relay.refuse_stale_build(tmp_path, built_from)


def test_an_installed_package_has_no_sources_to_compare(tmp_path: Path) -> None:
    native_relay.refuse_stale_build(tmp_path / "native", "anything")
