import os

import pytest
from PIL import Image
from torchvision.transforms.functional import to_tensor

from lightning_ood.data import ImageList, open_set
from lightning_ood.errors import InputError


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4)).save(path)


def open_(spec, root):
    return open_set(spec, root, to_tensor)


def test_an_image_list_with_blanks_and_labels_of_all_kinds(tmp_path):
    lines = ["one.png 3", "my photo 7.png 0", "no label 2.png", "", "tab.png\t12", "ood.png -1", "noending 4\r"]
    for name in ["one.png", "my photo 7.png", "no label 2.png", "tab.png", "ood.png"]:
        save(tmp_path / name)
    (tmp_path / "noending").write_bytes((tmp_path / "one.png").read_bytes())
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "set.txt").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    images = open_("lists/set.txt", tmp_path)
    assert images.paths == ["one.png", "my photo 7.png", "no label 2.png", "tab.png", "ood.png", "noending"]
    assert images.labels.tolist() == [3, 0, -1, 12, -1, 4]
    assert [images[i].label for i in range(6)] == [3, 0, -1, 12, -1, 4]


def test_a_list_may_name_the_folder_that_its_paths_start_from(tmp_path):
    save(tmp_path / "images" / "a b" / "0.png")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "set.txt").write_text("a b/0.png 3\n")
    for folder in ("images", str(tmp_path / "images"), "images/"):
        images = open_(ImageList("lists/set.txt", folder), tmp_path)
        assert images.paths == ["images/a b/0.png"] and images[0].label == 3
    with pytest.raises(InputError, match=r"start from .*pictures, and there is no such folder; set the root by"):
        open_(ImageList("lists/set.txt", "pictures"), tmp_path)
    with pytest.raises(InputError, match=r"ends in \.txt"):
        open_(ImageList("images/a b/0.png", "images"), tmp_path)
    with pytest.raises(InputError, match="images: no such"):
        open_(ImageList("images", "images"), tmp_path)


def test_an_image_named_twice_counts_twice_and_is_told(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    (tmp_path / "set.txt").write_text("a.png 1\nb.png 0\n\na.png 1\nb.png 0\n")
    images = open_("set.txt", tmp_path)
    assert images.labels.tolist() == [1, 0, 1, 0]
    assert images.notice.endswith(
        "names 2 of its 4 images a second time (a.png in lines 1 and 4); each line counts as an image"
    )
    (tmp_path / "set.txt").write_text("a.png 1\nb.png 0\na.png -1\n")
    with pytest.raises(InputError, match=r"set\.txt, line 3: a\.png has the label -1 here and 1 in line 1"):
        open_("set.txt", tmp_path)


def test_a_list_without_any_label_has_none(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "set.txt").write_text("a.png\na.png -1\n")
    assert open_("set.txt", tmp_path).labels is None


def test_a_label_that_no_table_has_room_for(tmp_path):
    save(tmp_path / "photo.png")
    (tmp_path / "list.txt").write_text("photo.png 100000000000")
    with pytest.raises(InputError, match=r"list\.txt, line 1: the label is 100000000000; .* end at 10000000"):
        open_("list.txt", tmp_path)


@pytest.mark.parametrize("line", ["photo", "photo x", "photo.png 1.5", "photo.png -2", "7"])
def test_a_line_that_does_not_parse_is_named(tmp_path, line):
    save(tmp_path / "a.png")
    (tmp_path / "set.txt").write_text(f"a.png 0\n\n{line}\n")
    with pytest.raises(InputError, match=r"set\.txt, line 3: cannot read `"):
        open_("set.txt", tmp_path)


def test_missing_files_of_a_list_are_counted_before_any_is_read(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "set.txt").write_text("a.png 0\n" + "".join(f"gone{i}.png 0\n" for i in range(5)))
    with pytest.raises(InputError, match=r"5 of 6 files are missing: .*gone0.*gone2.png, … \(5 in all\).*--data\.root"):
        open_("set.txt", tmp_path)


def make_nothing(root):
    return root / "set"


def make_empty(root):
    (root / "set").mkdir()


def make_empty_class(root):
    save(root / "set/a/0.png")
    (root / "set/b").mkdir()


def make_empty_classes(root):
    (root / "set/a").mkdir(parents=True)


def make_mixed(root):
    save(root / "set/a/0.png")
    save(root / "set/0.png")


@pytest.mark.parametrize(
    ("make", "spec", "message"),
    [
        (make_nothing, "set", r"set: no such folder; .*root .*--data\.root.*LIGHTNING_OOD_DATA"),
        (make_nothing, "set.txt", r"set\.txt: no such image list; .*LIGHTNING_OOD_DATA"),
        (make_empty, "set", "no images here"),
        (make_empty_class, "set", "class folders without images: b"),
        (make_empty_classes, "set", "no images in its 1 folders"),
        (make_mixed, "set", r"both images \(0\.png, …\) and folders \(a, …\)"),
        (lambda root: (root / "set.txt").write_text("\n"), "set.txt", "the image list is empty"),
        (lambda root: (root / "set.txt").write_bytes(b"\xff\xfe\x00"), "set.txt", "UTF-8"),
        (lambda root: save(root / "set.png"), "set.png", r"ends in \.txt"),
        (make_nothing, 3, "not int"),
    ],
)
def test_a_set_that_cannot_be_opened_says_why(tmp_path, make, spec, message):
    make(tmp_path)
    with pytest.raises(InputError, match=message):
        open_(spec, tmp_path)


ENDINGS = ["jfif", "JPE", "avif", "jp2", "tga", "pbm", "pnm", "qoi", "ico", "dds", "sgi", "pcx", "apng", "TIF", "webp"]


def test_what_pillow_reads_is_an_image(tmp_path):
    for i, ending in enumerate(ENDINGS):
        folder = tmp_path / "set" / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("1" if ending == "pbm" else "RGB", (16, 16), 1).save(folder / f"{i}.{ending}")
    images = open_("set", tmp_path)
    assert sorted(path.rpartition(".")[2] for path in images.paths) == sorted(ENDINGS)
    assert [images[i].label for i in range(len(images))] == images.labels.tolist() == [0] * 8 + [1] * 7
    assert images.notice == ""
    (tmp_path / "set.txt").write_text("".join(f"{path}\n" for path in images.paths))
    assert open_("set.txt", tmp_path).paths == images.paths


def test_what_is_left_out_is_counted_and_named(tmp_path):
    save(tmp_path / "set/a/0.png")
    for name in ("a/x.npy", "a/y.npy", "a/z.heic", "a/paper.h5", "a/plain", "README"):
        (tmp_path / "set" / name).write_bytes(b"no image")
    (tmp_path / "set/a/gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "set/a/pipe.png")  # opening it would wait for a writer
    images = open_("set", tmp_path)
    assert images.paths == ["set/a/0.png"]
    kinds = {kind: f"{n} {kind}" for n, kind in [(2, ".npy"), (1, ".heic"), (1, ".h5"), (2, "without an ending")]}
    for part in (*kinds.values(), "1 dangling link", "1 fifo, socket or device", "set/README, ", "left out"):
        assert part in images.notice
    for name in ("x.npy", "y.npy", "z.heic", "paper.h5", "plain", "pipe.png", "gone.png", "0.png"):
        (tmp_path / "set/a" / name).unlink()
    (tmp_path / "set/a/x.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"no images in its 1 folders; left out, .*1 \.npy"):
        open_("set", tmp_path)


def test_hidden_and_system_folders_are_not_read(tmp_path):
    for folder in ("a", ".ipynb_checkpoints", "@eaDir", "__MACOSX", "a/.ipynb_checkpoints", "a/@eaDir", "a/__MACOSX/a"):
        save(tmp_path / "set" / folder / "0.png")
    (tmp_path / "set/a/Thumbs.db").write_bytes(b"")
    save(tmp_path / "set/a/._0.png")
    images = open_("set", tmp_path)
    assert (images.paths, images.classes, images.notice) == (["set/a/0.png"], ["a"], "")


@pytest.mark.parametrize("target", ["set", ".", "set/a", "set/a/deep"])
def test_a_link_to_a_folder_above_is_refused(tmp_path, target):
    save(tmp_path / "set/a/deep/0.png")
    (tmp_path / "set/a/deep/again").symlink_to(tmp_path / target, target_is_directory=True)
    with pytest.raises(InputError, match=r"again: this link leads to a folder above it"):
        open_("set", tmp_path)


def test_links_that_lead_to_themselves_are_refused_and_others_followed(tmp_path):
    save(tmp_path / "elsewhere/0.png")
    save(tmp_path / "set/a/1.png")
    (tmp_path / "set/a/more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert open_("set", tmp_path).paths == ["set/a/1.png", "set/a/more/0.png"]
    (tmp_path / "set/a/self").symlink_to("self")
    with pytest.raises(InputError, match="self: this link leads to itself"):
        open_("set", tmp_path)
    (tmp_path / "set/a/self").unlink()
    (tmp_path / "set/up").symlink_to(tmp_path / "set", target_is_directory=True)
    with pytest.raises(InputError, match="up: this link leads to a folder above it"):
        open_("set", tmp_path)


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    save(tmp_path / "set/a/0.png")
    save(tmp_path / "set/a/closed/1.png")
    scandir = os.scandir

    def refuse(path):  # root may list every folder
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"set/a/closed: cannot be read \(Permission denied\)"):
        open_("set", tmp_path)
