"""Which pictures are meant by files, folders and globs, and what their results are called."""

import os
import unicodedata
from pathlib import Path, PurePath

import pytest

from nlsr.errors import UsageError
from nlsr.upscale.batch import Naming, Source, find_pictures, tasks


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def places(words, **options):
    return [source.place.as_posix() for source in find_pictures(words, **options).sources]


@pytest.fixture
def tree(tmp_path):
    touch(tmp_path / "in", "b.png", "a.JPG", "sub/c.tif", "sub/deep/d.heic", "notes.txt", "sub/clip.mp4", "plain")
    touch(tmp_path / "in", ".hidden.png", ".thumbnails/t.png", "sub/._a.png")
    return tmp_path / "in"


def test_a_folder_is_searched_with_all_below_it_sorted_and_hidden_files_left_out(tree):
    found = find_pictures([tree])
    assert [source.place.as_posix() for source in found.sources] == ["a.JPG", "b.png", "sub/c.tif", "sub/deep/d.heic"]
    assert [source.path for source in found.sources] == [tree / source.place for source in found.sources]
    assert dict(found.others) == {".txt": 1, ".mp4": 1, "without ending": 1}
    assert (found.several, found.in_folders) == (True, True)


def test_a_named_file_is_taken_whatever_it_is_called(tree):
    found = find_pictures([tree / "notes.txt", tree / "none.png"])
    assert [source.place.as_posix() for source in found.sources] == ["notes.txt", "none.png"]
    assert (found.several, found.in_folders) == (False, False)


def test_of_several_words_a_folder_keeps_its_name(tree, tmp_path):
    touch(tmp_path / "other", "a.JPG")
    assert places([tree / "sub", tmp_path / "other", tree / "b.png"]) == [
        "sub/c.tif",
        "sub/deep/d.heic",
        "other/a.JPG",
        "b.png",
    ]


def test_a_picture_that_is_meant_twice_is_taken_once(tree):
    assert places([tree / "b.png", tree / ".." / "in" / "b.png", tree]) == [
        "b.png",
        "in/a.JPG",
        "in/sub/c.tif",
        "in/sub/deep/d.heic",
    ]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", ["b.png"]),
        ("*", ["a.JPG", "b.png", "sub/c.tif", "sub/deep/d.heic"]),
        ("[ab].*", ["a.JPG", "b.png"]),
        ("*/*.tif", ["sub/c.tif"]),
        ("**/*.tif", ["sub/c.tif"]),
        ("**/d.*", ["sub/deep/d.heic"]),
        ("sub/**", ["c.tif", "deep/d.heic"]),
        ("**/deep/*", ["sub/deep/d.heic"]),
        ("**", ["a.JPG", "b.png", "sub/c.tif", "sub/deep/d.heic"]),
    ],
)
def test_globs_find_pictures_and_keep_the_tree_below_their_fixed_part(tree, pattern, expected):
    assert places([str(tree / pattern)]) == expected


def test_globs_may_be_relative(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert places(["*.png"]) == ["b.png"]
    assert places(["**/*.tif"]) == ["sub/c.tif"]
    assert [source.path for source in find_pictures(["*.png"]).sources] == [Path("b.png")]


def test_a_file_called_like_a_glob_is_that_file(tmp_path):
    touch(tmp_path, "[1].png", "1.png")
    assert places([str(tmp_path / "[1].png")]) == ["[1].png"]


def test_links_that_lead_back_end_and_linked_folders_are_searched_once(tree, tmp_path):
    touch(tmp_path / "elsewhere", "e.png")
    (tree / "again").symlink_to(tree)
    (tree / "sub" / "up").symlink_to("..")
    (tree / "aside").symlink_to(tmp_path / "elsewhere")
    (tree / "aside too").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tree)
    (tree / "self.png").symlink_to("self.png")
    expected = ["a.JPG", "b.png", "self.png", "sub/c.tif", "sub/deep/d.heic", "aside/e.png"]
    assert places([tree]) == expected
    assert sorted(places([str(tree / "**")])) == sorted(expected)


def test_the_output_folder_is_not_searched_by_whatever_name(tree, tmp_path):
    touch(tree, "sub/large/c.png")
    (tmp_path / "link").symlink_to(tree / "sub" / "large")
    for output in (tree / "sub" / "large", tmp_path / "link"):
        for word in (tree, tree / "**", tree / "*" / "*" / "*", tree / "sub" / "*"):
            assert "c.png" not in str(places([str(word)], leave_out=output))
    with pytest.raises(UsageError, match="is the input folder"):
        find_pictures([tree], leave_out=tree / "sub" / "..")


def test_an_empty_folder_called_like_a_picture_is_named_and_a_full_one_searched(tree):
    (tree / "empty.png").mkdir()
    touch(tree, "full.png/f.png")
    assert places([tree]) == ["a.JPG", "b.png", "empty.png", "full.png/f.png", "sub/c.tif", "sub/deep/d.heic"]


def test_names_of_any_bytes_are_kept(tmp_path):
    name = os.fsdecode(b"a\n\xff\xfe.png")
    touch(tmp_path / "in", name)
    assert places([tmp_path / "in"]) == places([str(tmp_path / "in" / "*.png")]) == [name]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may search every folder")
def test_a_folder_that_may_not_be_searched_is_a_problem(tree):
    (tree / "sub").chmod(0)
    try:
        problems = [source for source in find_pictures([tree]).sources if source.problem]
    finally:
        (tree / "sub").chmod(0o755)
    assert [(source.place.as_posix(), "Permission" in source.problem) for source in problems] == [("sub", True)]


def test_words_that_mean_no_picture_are_refused(tree, tmp_path):
    (tmp_path / "none").mkdir()
    for word in (tmp_path / "none", tree / "*.gif", tree / "**" / "x.*"):
        with pytest.raises(UsageError, match="holds no picture; looked for"):
            find_pictures([str(word)])


def source(path, place=None):
    return Source(Path(path), PurePath(place or Path(path).name))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{stem}", "a.b.webp"),
        ("{stem}_{size}", "a.b_x2.5.webp"),
        ("{scale}-{model}-{stem}.{ext}", "2.5-m-a.b.webp"),
        ("{stem}.{input_ext}", "a.b.jpg.webp"),
        ("{stem}.png", "a.b.png"),
        ("{{stem}}", "{a.b}.webp"),
        ("%s {", "%s {.webp"),
    ],
)
def test_patterns_name_results(pattern, expected):
    naming = Naming(None, pattern, "x2.5", "m", ext="webp")
    assert naming.target(source("dir/a.b.jpg")) == Path("dir") / expected


def test_what_is_in_a_name_is_no_pattern():
    assert Naming(None, "{stem}_{size}", "x4", "m").target(source("{model}.jpg")) == Path("{model}_x4.png")


def test_a_folder_of_results_mirrors_the_tree():
    naming = Naming(Path("out"), "{stem}", "x4", "m")
    assert naming.target(source("/far/in/sub/a.jpg", "sub/a.jpg")) == Path("out/sub/a.png")


@pytest.mark.parametrize("pattern", ["{name}", "{}", "a/{stem}", "../{stem}", "", "..", "a\0b"])
def test_patterns_that_are_no_file_names_are_refused(pattern):
    with pytest.raises(UsageError, match="`name="):
        Naming(None, pattern, "x4", "m")


def test_of_two_results_with_one_name_the_second_is_a_problem_that_names_both():
    sources = [source("in/a.jpg"), source("in/b.jpg"), source("in/a.png")]
    first, other, second = tasks(sources, [Path("out/a.png"), Path("out/b.png"), Path("out/../out/a.png")])
    assert first.problem is other.problem is None
    assert "out/../out/a.png, as that of in/a.jpg" in second.problem
    assert "{input_ext}" in second.problem


@pytest.fixture
def one_name_for_many(monkeypatch):
    """A file system that, like many of Windows and macOS, finds a file by any case of its letters and any accents."""

    def same(name):
        return unicodedata.normalize("NFC", name).lower()

    def lexists(path):
        folder, name = os.path.split(path)
        return same(name) in map(same, os.listdir(folder or "."))

    monkeypatch.setattr(os.path, "lexists", lexists)


ONE_NAME = [("one.png", "ONE.png"), ("Sub/one.png", "sub/one.png"), ("\u00e9.png", "e\u0301.png")]


@pytest.mark.parametrize("names", ONE_NAME)
def test_names_that_the_file_system_tells_apart_are_two_results(tmp_path, names):
    pictures = [source("a/one.jpg"), source("a/two.jpg")]
    assert [task.problem for task in tasks(pictures, [tmp_path / "out" / name for name in names])] == [None, None]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("one_name_for_many")
@pytest.mark.parametrize("names", ONE_NAME)
def test_names_that_are_one_to_the_file_system_make_no_second_result(tmp_path, names):
    pictures = [source("a/one.jpg"), source("a/two.jpg"), source("a/three.jpg")]
    targets = [tmp_path / "out" / name for name in (*names, "another.png")]
    first, second, third = tasks(pictures, targets)
    assert first.problem is third.problem is None
    assert "as that of a/one.jpg" in str(second.problem)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("one_name_for_many")
def test_a_result_takes_no_picture_whose_name_is_one_to_the_file_system(tmp_path):
    touch(tmp_path, "a.jpg", "A_X2.png")
    first, _ = tasks(
        [source(tmp_path / "a.jpg"), source(tmp_path / "A_X2.png")], [tmp_path / "a_x2.png", Path("b.png")]
    )
    assert "would take the place of" in str(first.problem)


def test_a_result_never_takes_the_place_of_a_picture(tmp_path):
    touch(tmp_path, "a.png", "b.jpg")
    (tmp_path / "link.png").symlink_to("a.png")
    sources = [source(tmp_path / "a.png"), source(tmp_path / "b.jpg")]
    itself, others = tasks(sources, [tmp_path / "link.png", tmp_path / "a.png"])
    assert "the output is the input" in itself.problem
    assert "would take the place of" in others.problem
