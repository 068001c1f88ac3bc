"""Files of boxes."""

import pytest

from delg.errors import UsageError
from index.answers.region_boxes import read_region_boxes


def test_boxes_in_csv_and_json(tmp_path):
    csv, json = tmp_path / "boxes.csv", tmp_path / "boxes.json"
    csv.write_text(
        "image,score,x,y,width,height\na.jpg,.9,1,2,3,4\nb.jpg,.2,5,6,7.5,8\na.jpg,,0,0,9,9\n"
    )
    json.write_text(
        '{"a.jpg": [[1, 2, 3, 4], [0, 0, 9, 9]], "b.jpg": [[5, 6, 7.5, 8]], "c.jpg": []}'
    )
    for boxes in map(read_region_boxes, (csv, json)):
        assert boxes.of("a.jpg") == [(1, 2, 3, 4), (0, 0, 9, 9)]
        assert boxes.of("some/folder/b.jpg") == [(5, 6, 7.5, 8)]
        assert boxes.of("d.jpg") is None
    assert read_region_boxes(json).of("c.jpg") == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "image,x,y,width\n", "no column called height"),
        ("a.csv", "image,x,y,width,height\na,1,2,3\n", "line 2: expected four numbers"),
        ("a.csv", "image,x,y,width,height\na,1,2,0,4\n", "line 2: width and height"),
        ("a.csv", "image,x,y,width,height\na,1,2,inf,4\n", "finite"),
        ("a.json", "[]", "expected"),
        ("a.json", '{"a": [[1, 2, 3]]}', "box 1 of a: expected four numbers"),
        ("a.json", "{", "no file of boxes"),
        ("a.json", '{"a": ["1234x"]}', "four numbers"),
    ],
)
def test_what_is_no_file_of_boxes_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        read_region_boxes(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    with pytest.raises(UsageError, match="cannot be read"):
        read_region_boxes(tmp_path / "nowhere.csv")
