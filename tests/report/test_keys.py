import re

from lightning_ood.report.keys import keys, plain


def test_names_become_keys_that_every_logger_takes():
    assert plain("AUROC % of training images (inside the subset) against ID") == (
        "AUROC_percent_of_training_images_inside_the_subset_against_ID"
    )
    same = ["msp", "NAP_0.5", "fs/eights", "mean-fs/near", "a/b", "a_b"]
    found = keys([*same, "ré@$", "a b", "$$", "fs/$$", "/", "//x"])
    assert list(found.values())[:7] == [*same, "re"]
    assert found["a_b"] == "a_b" and found["a b"].startswith("a_b-")
    assert len(set(found.values())) == len(found)
    assert all(re.fullmatch(r"[-.\w]+(/[-.\w]+)*", key, re.ASCII) for key in found.values())
