"""Settings: flags before variables before defaults, and where each came from."""

import pytest

from service.config import InvalidSettings, Settings, as_environment, flag_of, resolve, unknown_variables


def test_a_flag_wins_over_a_variable_which_wins_over_the_default() -> None:
    settings, origins = resolve({"port": "1"}, {"MOMOSEEK_PORT": "2", "MOMOSEEK_MAX_BATCH": "8"})
    assert (settings.port, origins["port"]) == (1, "--port")
    assert (settings.max_batch, origins["max_batch"]) == (8, "MOMOSEEK_MAX_BATCH")
    assert (settings.host, origins["host"]) == ("127.0.0.1", "default")


@pytest.mark.parametrize(
    ("name", "value"),
    [("port", "seventy"), ("port", "70000"), ("device", "tpu"), ("recall_floor", "2"), ("worker", "perhaps")],
)
def test_an_unusable_value_is_named_with_its_origin(name: str, value: str) -> None:
    variable = f"MOMOSEEK_{name.upper()}"
    with pytest.raises(InvalidSettings, match=f"{variable}={value}"):
        resolve({}, {variable: value})


def test_a_variable_that_names_no_setting_is_noticed() -> None:
    assert unknown_variables({"MOMOSEEK_PROT": "1", "MOMOSEEK_PORT": "1", "HOME": "/"}) == ["MOMOSEEK_PROT"]


def test_every_setting_is_described_and_has_a_flag() -> None:
    assert all(field.description for field in Settings.model_fields.values())
    assert flag_of("max_image_pixels") == "--max-image-pixels"


def test_a_child_process_gets_the_same_settings_through_its_environment() -> None:
    settings = Settings(port=1, worker=False, recall_floor=0.5)
    assert resolve({}, as_environment(settings))[0] == settings
