"""The report of a conversion, as a table and in groups."""

from sparsetrain.nn import LayerReport, Report, grouped, shape_text

ROWS = tuple(
    LayerReport(f"blocks.{i}.mlp.fc1", (3072, 768), "2:4 weight", "masked: asked for")
    for i in range(12)
)
HEAD = LayerReport("head", (1000, 768), "dense", reason="excluded")


def test_the_table_has_a_header_one_row_per_layer_and_the_notes():
    lines = str(Report(ROWS[:2], (HEAD,), ("Load weights before.",))).splitlines()
    assert lines == [
        "2 layers sparse, 1 dense",
        "blocks.0.mlp.fc1  3072×768  2:4 weight  masked: asked for",
        "blocks.1.mlp.fc1  3072×768  2:4 weight  masked: asked for",
        "head              1000×768  dense       excluded",
        "Load weights before.",
    ]


def test_an_empty_report_is_one_line():
    assert str(Report((), ())) == "0 layers sparse, 0 dense"


def test_rows_that_differ_in_numbers_alone_are_one_group():
    groups = grouped((*ROWS, HEAD))
    assert [(row.name, count) for row, count in groups] == [("blocks.*.mlp.fc1", 12), ("head", 1)]
    assert groups[0][0].shape == (3072, 768)
    assert groups[1][0].reason == "excluded"


def test_another_shape_or_reason_is_another_group():
    wide = LayerReport("blocks.12.mlp.fc1", (4096, 768), "2:4 weight", "masked: asked for")
    why = LayerReport("blocks.13.mlp.fc1", (3072, 768), "dense", reason="excluded")
    assert [count for _, count in grouped((*ROWS, wide, why))] == [12, 1, 1]


def test_numbers_inside_a_name_do_not_group():
    assert len(grouped((LayerReport("a.fc1", (4, 4), "x"), LayerReport("a.fc2", (4, 4), "x")))) == 2


def test_shapes_of_layers_and_mlps_are_written_with_a_cross():
    assert shape_text((3072, 768)) == "3072×768"
    assert shape_text((768, 3072, 768)) == "768×3072×768"
