"""The controller's configuration: the example says every key, and faults have their places."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from kube_controller.config import ControllerConfig
from kube_controller.main import main
from netspace.config import load
from netspace.problems import Problem
from tests.unit.test_config import keys, written

EXAMPLE = Path(__file__).parents[2] / "conf" / "controller.yaml"


def test_the_example_is_correct_and_shows_the_defaults() -> None:
    example = load(EXAMPLE, ControllerConfig)
    assert example == ControllerConfig(cluster="prod")


def test_the_example_documents_every_key() -> None:
    uncommented = re.sub(r"(?m)^(\s*)# ( *[a-z_]+:(?: |$))", r"\1\2", EXAMPLE.read_text())
    assert written(yaml.safe_load(uncommented)) == keys(ControllerConfig)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("cluster: East", "cluster"),
        ("{}", "cluster"),
        ("{cluster: a, poll: 11}", "poll"),
        ("{cluster: a, listen: https://0.0.0.0:1}", "listen"),
        ("{cluster: a, server: {endpoints: ['https://a:1']}}", "server"),
        ("{cluster: a, server: {ca: /a}}", "server"),
        ("{cluster: a, federation: {endpoints: ['https://a:1']}}", "federation"),
        ("{cluster: a, kubernetes: {kubeconfig: /a, server: https://b}}", "kubernetes"),
        ("{cluster: a, election: {duration: 4, pause: 3}}", "election"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "controller.yaml"
    path.write_text(text)
    with pytest.raises(Problem) as caught:
        load(path, ControllerConfig)
    [fault] = caught.value.errors
    assert fault.startswith(f"controller.yaml: {place}: ")


def test_check_says_that_a_configuration_is_correct() -> None:
    result = CliRunner().invoke(main, ["serve", "--check", "--config", str(EXAMPLE)])
    assert (result.exit_code, "correct" in result.output) == (0, True)
