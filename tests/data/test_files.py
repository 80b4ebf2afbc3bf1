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
