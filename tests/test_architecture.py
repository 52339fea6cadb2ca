import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_squeezenet.network.architecture import Architecture, FireFilters, preset

FIRE = FireFilters(4, 8, 8)


def filters(architecture):
    return [(fire.squeeze, fire.expand1x1, fire.expand3x3) for fire in architecture.fires]


def bypasses(architecture):
    return {
        number: fire.bypass
        for number, fire in zip(architecture.fire_numbers, architecture.fires, strict=True)
        if fire.bypass
    }


TABLE_1 = [
    (16, 64, 64),
    (16, 64, 64),
    (32, 128, 128),
    (32, 128, 128),
    (48, 192, 192),
    (48, 192, 192),
    (64, 256, 256),
    (64, 256, 256),
]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_both_presets_have_the_fires_of_table_1(version):
    architecture = preset(version)
    assert filters(architecture) == TABLE_1
    assert bypasses(architecture) == {}
    assert list(architecture.fire_numbers) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert architecture.last_conv_number == 10
    assert architecture.out_channels == 512


def test_the_presets_differ_in_conv1_pooling_and_input_size():
    v10, v11 = preset("1.0"), preset("1.1")
    assert (v10.conv1_filters, v10.conv1_kernel_size, v10.pool_after) == (96, 7, (1, 4, 8))
    assert (v11.conv1_filters, v11.conv1_kernel_size, v11.pool_after) == (64, 3, (1, 3, 5))
    assert (v10.input_size, v11.input_size) == (227, 224)


def test_the_defaults_of_the_metaparameters_are_squeezenet_1_0():
    assert Architecture.from_metaparameters(name="squeezenet1_0") == preset("1.0")


# Worked out by hand from section 5.1: e_i = base_e + incr_e·floor(i / freq), s = SR·e_i,
# e3x3 = pct_3x3·e_i, e1x1 = e_i - e3x3. The paper's e_i are 128 128 256 256 384 384 512 512.
METAPARAMETERS = {
    "SR 0.75, the 19 MB end of Figure 3(a)": (
        {"squeeze_ratio": 0.75},
        [
            (96, 64, 64),
            (96, 64, 64),
            (192, 128, 128),
            (192, 128, 128),
            (288, 192, 192),
            (288, 192, 192),
            (384, 256, 256),
            (384, 256, 256),
        ],
    ),
    "SR 1, fires that do not squeeze": (
        {"squeeze_ratio": 1, "fires": 2, "pool_after": ()},
        [(128, 64, 64), (128, 64, 64)],
    ),
    "pct_3x3 0": (
        {"pct_3x3": 0, "fires": 3, "pool_after": (1,)},
        [(16, 128, 0), (16, 128, 0), (32, 256, 0)],
    ),
    "pct_3x3 1": (
        {"pct_3x3": 1, "fires": 3, "pool_after": (1,)},
        [(16, 0, 128), (16, 0, 128), (32, 0, 256)],
    ),
    "pct_3x3 0.25 at SR 0.5": (
        {"pct_3x3": 0.25, "squeeze_ratio": 0.5, "fires": 3, "pool_after": (1,)},
        [(64, 96, 32), (64, 96, 32), (128, 192, 64)],
    ),
    "freq 3": (
        {"base_e": 16, "incr_e": 8, "freq": 3, "fires": 7, "pool_after": (1, 5)},
        [(2, 8, 8)] * 3 + [(3, 12, 12)] * 3 + [(4, 16, 16)],
    ),
    "freq 1, no growth": (
        {"base_e": 24, "incr_e": 0, "freq": 1, "fires": 2, "pool_after": (3,)},
        [(3, 12, 12), (3, 12, 12)],
    ),
    "halves of a filter are rounded up": (  # 0.125·12 = 1.5, 0.5·9 = 4.5, 0.125·9 = 1.125
        {"base_e": 9, "incr_e": 3, "freq": 1, "fires": 2, "pool_after": ()},
        [(1, 4, 5), (2, 6, 6)],
    ),
}


@pytest.mark.parametrize(
    ("arguments", "expected"), METAPARAMETERS.values(), ids=METAPARAMETERS.keys()
)
def test_metaparameters_give_the_filters_of_section_5(arguments, expected):
    architecture = Architecture.from_metaparameters(**arguments)
    assert filters(architecture) == expected
    assert architecture.fire_in_channels == (96, *(a + b for _, a, b in expected[:-1]))


def test_a_simple_bypass_goes_around_fires_3_5_7_9():
    architecture = preset("1.0").with_bypass("simple")
    assert bypasses(architecture) == dict.fromkeys((3, 5, 7, 9), "simple")


def test_a_complex_bypass_adds_a_convolution_around_fires_2_4_6_8():
    architecture = preset("1.1").with_bypass("complex")
    expected = dict.fromkeys((3, 5, 7, 9), "simple") | dict.fromkeys((2, 4, 6, 8), "complex")
    assert bypasses(architecture) == expected


def test_a_bypass_can_be_taken_away_again():
    assert preset("1.0").with_bypass("complex").with_bypass(None) == preset("1.0")


def test_metaparameters_take_a_bypass():
    assert Architecture.from_metaparameters(name="squeezenet1_0", bypass="simple") == preset(
        "1.0"
    ).with_bypass("simple")


def test_a_fire_reports_the_channels_of_both_expands():
    assert FireFilters(3, 5, 7).out_channels == 12
    assert FireFilters(3, 0, 7).out_channels == 7


def test_the_order_of_pool_after_does_not_matter():
    shuffled = Architecture.from_metaparameters(name="squeezenet1_0", pool_after=[8, 1, 4])
    assert shuffled == preset("1.0")
    assert hash(shuffled) == hash(preset("1.0"))


# conv1 7×7/2 on 21 pixels gives 8, the poolings then 4, 2, 1; for 3×3/2 that takes 17.
@pytest.mark.parametrize(("version", "side"), [("1.0", 21), ("1.1", 17)])
def test_the_smallest_input_of_the_presets(version, side):
    assert preset(version).min_input_size == side


def test_the_smallest_input_without_pooling_is_the_kernel():
    assert Architecture("tiny", 4, 5, (FIRE,), ()).min_input_size == 5


REFUSED_METAPARAMETERS = [
    ("base_e", {"base_e": 0}),
    ("base_e", {"base_e": 128.0}),
    ("incr_e", {"incr_e": -1}),
    ("incr_e", {"incr_e": True}),
    ("freq", {"freq": 0}),
    ("fires", {"fires": 0}),
    ("fires", {"fires": "8"}),
    ("pct_3x3", {"pct_3x3": 1.5}),
    ("pct_3x3", {"pct_3x3": -0.1}),
    ("pct_3x3", {"pct_3x3": float("nan")}),
    ("pct_3x3", {"pct_3x3": 0.001}),
    ("pct_3x3", {"pct_3x3": 0.999}),
    ("pct_3x3", {"pct_3x3": "half"}),
    ("squeeze_ratio", {"squeeze_ratio": 0}),
    ("squeeze_ratio", {"squeeze_ratio": 1.01}),
    ("squeeze_ratio", {"squeeze_ratio": 0.001}),
    ("squeeze_ratio", {"squeeze_ratio": None}),
    ("pool_after", {"pool_after": (0,)}),
    ("pool_after", {"pool_after": (1, 10)}),
    ("pool_after", {"pool_after": (4, 4)}),
    ("pool_after", {"pool_after": 4}),
    ("pool_after", {"pool_after": (1, "4")}),
    ("pool_after", {"pool_after": (1.0, 4)}),
    ("pool_after", {"pool_after": (True, 4)}),
    ("conv1_filters", {"conv1_filters": 0}),
    ("conv1_kernel_size", {"conv1_kernel_size": 0}),
    ("input_size", {"input_size": 0}),
    ("bypass", {"bypass": "double"}),
]


@pytest.mark.parametrize(
    ("argument", "arguments"), REFUSED_METAPARAMETERS, ids=lambda value: str(value)
)
def test_refused_metaparameters_are_named(argument, arguments):
    with pytest.raises(ValueError, match=rf"`{argument}`[\s\S]*Received: {argument}="):
        Architecture.from_metaparameters(**arguments)


@pytest.mark.parametrize(
    ("argument", "arguments"),
    [
        ("squeeze", (0, 8, 8)),
        ("expand1x1", (4, -1, 8)),
        ("expand3x3", (4, 8, 8.5)),
        ("expand1x1", (4, 0, 0)),
        ("bypass", (4, 8, 8, "none")),
    ],
)
def test_refused_fires_name_the_argument(argument, arguments):
    with pytest.raises(ValueError, match=rf"`{argument}`[\s\S]*Received: {argument}="):
        FireFilters(*arguments)


@pytest.mark.parametrize("fires", [(), ((4, 8, 8),), [FIRE, None]])
def test_an_architecture_takes_fires_only(fires):
    with pytest.raises(ValueError, match="`fires` must hold one or more FireFilters"):
        Architecture("bad", 16, 3, fires, ())


def test_a_simple_bypass_between_different_channels_names_the_fire():
    fires = (FireFilters(4, 8, 8), FireFilters(4, 16, 16, "simple"))
    with pytest.raises(ValueError, match="fire3 with 16 channels in, 32 out"):
        Architecture("bad", 16, 3, fires, ())


def test_a_simple_bypass_is_refused_where_every_fire_grows():
    growing = Architecture.from_metaparameters(freq=1, name="growing")
    with pytest.raises(ValueError, match=r"growing has none\. Received: bypass=simple"):
        growing.with_bypass("simple")


@pytest.mark.parametrize("version", ["1.2", 1.1, None])
def test_an_unknown_version_is_refused(version):
    with pytest.raises(ValueError, match=rf"one of '1\.0', '1\.1'\. Received: version={version}"):
        preset(version)


def fire_filters():
    counts = st.integers(0, 40)
    return st.tuples(st.integers(1, 40), counts, counts).filter(lambda f: f[1] + f[2] > 0)


@st.composite
def architectures(draw):
    fires = draw(st.lists(fire_filters(), min_size=1, max_size=6))
    architecture = Architecture(
        name=draw(st.text(max_size=8)),
        conv1_filters=draw(st.integers(1, 80)),
        conv1_kernel_size=draw(st.integers(1, 9)),
        fires=tuple(FireFilters(*fire) for fire in fires),
        pool_after=tuple(draw(st.sets(st.integers(1, len(fires) + 1)))),
        input_size=draw(st.integers(1, 512)),
    )
    return architecture.with_bypass(draw(st.sampled_from([None, "complex"])))


@given(architectures())
def test_an_architecture_survives_json(architecture):
    as_text = json.dumps(architecture.to_dict())
    assert Architecture.from_dict(json.loads(as_text)) == architecture


def test_what_is_read_back_is_checked_again():
    config = preset("1.1").to_dict() | {"conv1_filters": -64}
    with pytest.raises(ValueError, match="Received: conv1_filters=-64"):
        Architecture.from_dict(config)


FOREIGN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 70)
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["simple", "complex", "a\nb", "x" * 5000]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "fires", "squeeze", "expand1x1", "expand3x3", "a\nb", 3]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


def refusal(config):
    """What `from_dict` says against it, which is one line that is not too long; or None."""
    try:
        Architecture.from_dict(config)
        return None
    except ValueError as error:
        said = str(error)
    assert len(said.splitlines()) == 1
    assert len(said) < 1000
    return said


@given(FOREIGN)
def test_what_is_no_architecture_is_refused_in_one_line(config):
    assert refusal(config)


@given(architectures(), st.data())
def test_a_changed_architecture_is_refused_in_one_line_or_sound(architecture, data):
    config = architecture.to_dict()
    target = data.draw(st.sampled_from([config, config["fires"][0]]))
    key = data.draw(st.sampled_from([*target, "unknown"]))
    if data.draw(st.booleans()):
        target.pop(key, None)
    else:
        target[key] = data.draw(FOREIGN)
    if refusal(config) is None:
        read = Architecture.from_dict(config)
        assert Architecture.from_dict(json.loads(json.dumps(read.to_dict()))) == read


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "`config` must have the keys name, conv1_filters, .* Received: none"),
        ([], r"`config` must hold a dict\. Received: \[\]"),
        (preset("1.1").to_dict() | {"layers": 3}, r"`config` must have .*, layers"),
        (preset("1.1").to_dict() | {"fires": 3}, "`fires` must be a list of dicts.*fires=3"),
        (preset("1.1").to_dict() | {"fires": [[4, 8, 8]]}, "`fires` must hold a dict"),
        (preset("1.1").to_dict() | {"fires": [{"squeeze": 1}]}, "`fires` must have the keys sq"),
        (preset("1.1").to_dict() | {"pool_after": 3}, "Received: pool_after=3"),
        (preset("1.1").to_dict() | {"name": 3}, "`name` must be a string. Received: name=3"),
    ],
)
def test_a_foreign_dict_is_told_what_is_missing(config, message):
    with pytest.raises(ValueError, match=message):
        Architecture.from_dict(config)


def test_attributes_with_a_default_may_be_missing():
    config = preset("1.1").to_dict()
    del config["input_size"], config["last_conv_padding"], config["fires"][0]["bypass"]
    assert Architecture.from_dict(config) == preset("1.1")
