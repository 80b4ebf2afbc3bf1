"""A file is whole or not there."""

from pathlib import Path

import pytest

from lightning_ood.ops.files import write_text, write_whole


def test_an_interrupted_write_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "table.csv"

    def dies(partial: Path) -> None:
        partial.write_text("half")
        assert path.read_text() == "whole", "nobody sees the half"
        raise KeyboardInterrupt

    write_text(path, "whole")
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, dies)
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]
    assert write_text(path, "ä").read_bytes() == "ä".encode()
