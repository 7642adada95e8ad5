from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import ExtractSettings, Recipe, from_dict, load_recipe, recipe_names
from pipeline.errors import InputError


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_of_the_package_reads_and_comes_back(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert from_dict(recipe.to_dict()) == recipe


def test_overrides_win_over_the_recipe() -> None:
    recipe = load_recipe("mft", ["--train.steps", "500", "--model.heads=8", "--extract.video_3d", "null"])
    assert (recipe.train.steps, recipe.model.heads, recipe.extract.video_3d) == (500, 8, None)


def test_a_recipe_changes_only_what_it_lists_of_its_base(tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text("base: mft\nname: short\ntrain: {epochs: 1}\n")
    recipe, base = load_recipe(str(path)), load_recipe("mft")
    assert recipe.train.epochs == 1
    assert recipe.train.learning_rate == base.train.learning_rate
    assert recipe.model == base.model


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (["--train.step", "3"], "did you mean train.steps?"),
        (["--train.lr", "3"], "did you mean train.learning_rate?"),
        (["--model.head=3"], "did you mean model.heads?"),
        (["--train.steps", "many"], "train.steps cannot be 'many'; it takes a whole number or null"),
        (["--train.optimizer", "sgdd"], "train.optimizer cannot be 'sgdd'; it takes adam or adamw"),
        (["--train.eval_mode", "2"], "train.eval_mode cannot be 2; it takes true or false"),
        (["--train.accumulate", "0"], "train.accumulate is 0; it must be 1 or more"),
        (["--train.log_every", "-5"], "train.log_every is -5; it must be 1 or more"),
        (["--train.learning_rate", "-1"], "train.learning_rate is -1.0; it must be 0 or more"),
        (["--train.seed", "-1"], "train.seed is -1; it must be 0 or more"),
        (["--train.seed", str(2**63)], "train.seed is 9223372036854775808; it must be 9223372036854775807 or less"),
        (
            ["--clips.max_video_tokens=0", "--clips.pieces=3", "--evaluate.strategy=cut"],
            "clips.pieces is 3, but .* set clips.pieces 1",
        ),
        (
            ["--clips.max_video_tokens=0", "--evaluate.windows=2", "--evaluate.strategy=cut"],
            "evaluate.strategy is cut and evaluate.windows 2, but .* set evaluate.strategy at_once",
        ),
        (["--loss.temperature", ".nan"], "loss.temperature is nan; it must be more than 0"),
        (["--loss.weights", "{tv: -1}"], "loss.weights.tv is -1.0; it must be 0 or more"),
        (["--loss.margin", ".nan"], "loss.margin is nan; it must be a finite number"),
        (["--train.eval_mode", "true", "--model.cross_modal", "false"], "model.cross_modal false is against that"),
        (["--clips.pieces", "2"], "clips.pieces 2 cuts clips, .* set evaluate.strategy cut and evaluate.windows 2"),
        (["--model.audio_pooling", "max_pool"], "model.audio_pooling max_pool needs model.max_audio_tokens"),
        (["--evaluate.split", "a: b: c"], "--evaluate.split a: b: c: not valid YAML"),
        (["--extract.batch_size", "-1"], "extract.batch_size is -1; it must be 1 or more"),
        (["--extract.timeout", "0"], "extract.timeout is 0.0; it must be more than 0"),
        (["--train", "3"], "train is a section of settings"),
        (["--train.steps"], "needs a value"),
        (["steps"], "unexpected argument steps"),
    ],
)
def test_a_wrong_override_is_named(override: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?")) as error:
        load_recipe("mft", override)
    assert "\n" not in str(error.value)


def test_an_unknown_key_in_a_file_names_the_file_and_the_nearest_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: mft\nname: mine\nclips: {per_vido: 3}\n")
    with pytest.raises(InputError, match=r"mine\.yaml: unknown setting clips\.per_vido; did you mean clips\.per_video"):
        load_recipe(str(path))


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean mft"):
        load_recipe("mtf")


def test_a_file_that_is_not_yaml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("name: [1, 2")
    with pytest.raises(InputError, match=r"broken\.yaml: not valid YAML"):
        load_recipe(str(path))


@pytest.mark.parametrize(("text", "what"), [("", "is empty"), ("[1, 2]", "is no mapping of settings")])
def test_a_file_without_settings_is_told(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"odd\.yaml: {what}: a recipe has a name"):
        load_recipe(str(tmp_path / "odd.yaml"))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 10**6), st.floats(1e-8, 1.0), st.booleans())
def test_settings_survive_yaml(steps: int, rate: float, seeded: bool) -> None:
    recipe = Recipe("x", 1, "a test", seeded=seeded)
    recipe.train.steps, recipe.train.learning_rate = steps, rate
    assert from_dict(yaml.safe_load(yaml.safe_dump(recipe.to_dict()))) == recipe


def test_what_decides_the_stored_values_decides_the_fingerprint() -> None:
    """Shards from before spectrograms could be of 8 bits are of the same settings as they were."""
    assert ExtractSettings().fingerprint() == "77a1680249dd9a7e"
    assert ExtractSettings(timeout=1.0, shard_bytes=5).fingerprint() == ExtractSettings().fingerprint()
    assert ExtractSettings(audio_dtype="8bit").fingerprint() != ExtractSettings().fingerprint()
    silent = ExtractSettings(audio=False, audio_dtype="8bit")
    assert silent.fingerprint() == ExtractSettings(audio=False).fingerprint()


def test_a_recipe_that_is_based_on_itself_is_named(tmp_path: Path) -> None:
    path = tmp_path / "round.yaml"
    path.write_text(f"base: {path}\n")
    with pytest.raises(InputError, match=r"round\.yaml is based on itself"):
        load_recipe(str(path))


def test_a_recipe_without_a_name_is_called_like_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: demo\ntrain: {steps: 3}\n")
    (tmp_path / "yours.yaml").write_text(f"base: {tmp_path / 'mine.yaml'}\n")
    assert load_recipe(str(tmp_path / "mine.yaml")).name == "mine"
    assert load_recipe(str(tmp_path / "yours.yaml")).name == "yours"
    assert load_recipe(str(tmp_path / "yours.yaml")).train.steps == 3
