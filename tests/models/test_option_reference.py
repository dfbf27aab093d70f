"""The option table, and what is generated from it: JSON schema and reference page."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from option_files import FILES

from basicsr.models.option_reference import json_schema, main
from basicsr.models.option_table import SECTIONS, TOP, Option
from basicsr.models.schema import check_options
from basicsr.utils.options import OptionError, load_options

jsonschema = pytest.importorskip('jsonschema', reason='needs jsonschema')
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def validator():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_schema_and_page_are_up_to_date(tmp_path):
    assert main(['--schema', str(tmp_path / 'schema.json'), '--page', str(tmp_path / 'options.md')]) == 0
    for made, kept in (('schema.json', 'options/schema.json'), ('options.md', 'docs/options.md')):
        assert (ROOT / kept).read_text() == (tmp_path / made).read_text(), 'python -m basicsr.models.option_reference'


def test_every_option_file_fits_the_schema(validator):
    assert len(FILES) > 40
    for path in FILES:
        errors = [f'{path.name}: {error.message}' for error in validator.iter_errors(load_options(path))]
        assert not errors


@pytest.mark.parametrize(
    ('section', 'key', 'value'),
    [
        ('train', 'totel_iter', 5),
        ('train', 'total_iter', 'many'),
        ('train', 'total_iter', 0),
        ('train', 'ema_decay', 1.0),
        ('train', 'id_lr_scale', 0),
        ('logger', 'keep_last', 0),
        ('dist_params', 'dead_after', 1),
        ('network_g', 'embed_dim', 8),
        ('train', 'pixel_opt', {'type': 'L3Loss'}),
    ],
)
def test_check_and_schema_refuse_the_same(validator, section, key, value):
    opt = load_options(ROOT / 'options' / 'small' / 'CodeFormer_128_stage3.yml')
    check_options(opt)
    wrong = copy.deepcopy(opt)
    wrong[section] = {**(wrong.get(section) or {}), key: value}
    with pytest.raises(OptionError, match=section):
        check_options(wrong)
    assert list(validator.iter_errors(wrong))


def test_every_key_has_a_meaning_and_limits_are_closed_or_open():
    for table in (TOP, *SECTIONS.values()):
        assert all(option.meaning for option in table.values())
    decay = Option(float, 'x', least=0, below=1)
    assert [decay.allows(value) for value in (-0.1, 0, 0.5, 1)] == [False, True, True, False]
    assert decay.limits == 'from 0 to below 1'
    scale = Option(float, 'x', above=0)
    assert [scale.allows(value) for value in (0, 1e-9)] == [False, True] and scale.limits == 'above 0'
    json.dumps(json_schema())
