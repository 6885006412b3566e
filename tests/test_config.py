"""worker.config: where a value comes from, what is refused and how, and what others are handed."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.e2e.harness import ROOT
from worker import config_values
from worker.cli.options import config_options, parse
from worker.config import Config, option_flag, options_table, restart_only
from worker.config_values import Volume, is_loopback, read_volume, split_address
from worker.errors import ConfigError
from worker.shared.channel import MAX_CONNECTIONS


def load(*argv: str, env: dict[str, str] | None = None, **keywords: Any) -> Config:
    return Config.resolve(parse(["--data-dir", "/tmp", *argv]), env or {}, **keywords)


def refused(*argv: str, env: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(*argv, env=env)
    return caught.value


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "worker.toml"
    path.write_text("max_queued = 3\n")
    return path


def test_the_command_line_wins_over_the_environment_over_the_file_over_the_default(toml: Path) -> None:
    env = {"GALAGO_MAX_QUEUED": "2", "GALAGO_CONFIG": str(toml)}
    assert load("--max-queued", "1", env=env).max_queued == 1
    assert load(env=env).max_queued == 2
    assert load(env={"GALAGO_CONFIG": str(toml)}).max_queued == 3
    assert load("--config", str(toml)).max_queued == 3
    assert load().max_queued == 10_000


def test_every_field_is_an_option_and_a_variable(toml: Path) -> None:
    offered = {flag for option in config_options() for flag in option.opts}
    assert {option_flag(option.name) for option in fields(Config)} <= offered
    warnings: list[str] = []
    defaults = Config()
    given = {option.name: getattr(defaults, option.name) for option in fields(Config)}
    env = {f"GALAGO_{name.upper()}": "" if value == () else str(value) for name, value in given.items() if value}
    assert load(env=env, warn=warnings.append) == Config(data_dir="/tmp")
    assert warnings == []


def test_help_names_every_option_its_range_and_its_default() -> None:
    serve = click.Command("serve", params=config_options())
    told = " ".join(serve.get_help(click.Context(serve)).split())
    untold = [option.name for option in fields(Config) if option_flag(option.name) not in told]
    assert untold == [option.name for option in fields(Config) if option.metadata["hidden"]] == ["fault_dir"]
    assert "--max-module-bytes BYTES a module's size (1 KiB to 1 GiB; default 32 MiB)" in told


def test_the_table_has_a_row_for_each_option() -> None:
    rows = options_table().splitlines()
    assert len(rows) == 2 + sum(not option.metadata["hidden"] for option in fields(Config))
    assert "| `--volume` | directory for mounts, NAME=PATH[,uid=U,gid=G]; may be repeated | text | no default |" in rows


def test_an_unknown_variable_is_warned_about_with_what_may_have_been_meant() -> None:
    warnings: list[str] = []
    load(env={"GALAGO_MAX_QUEUD": "1", "GALAGO_TOKEN": "x", "PATH": "/bin"}, warn=warnings.append)
    assert warnings == ["GALAGO_MAX_QUEUD is no option and is ignored; did you mean GALAGO_MAX_QUEUED?"]


def test_an_unknown_key_of_the_file_is_refused(toml: Path) -> None:
    toml.write_text("max_queud = 3\n")
    message = f"{toml}: max_queud: '3' is not right; it must be an option's name; did you mean max_queued?"
    assert str(refused("--config", str(toml))) == message


A_SIZE = "a size, in bytes or like 64KiB, from 1 KiB to 1 GiB"


@pytest.mark.parametrize(
    ("argv", "right"),
    [
        (["--max-runners", "x"], "a whole number from 1 to 4096"),
        (["--max-runners", "0"], "a whole number from 1 to 4096"),
        (["--max-runners", "1.5"], "a whole number from 1 to 4096"),
        (["--durability", "some"], "full or normal"),
        (["--max-module-bytes", "1"], A_SIZE),
        (["--max-module-bytes", "1 MB"], A_SIZE),
        (["--max-output-bytes", "4GiB"], "a size, in bytes or like 64KiB, from 0 bytes to 4095 MiB"),
        (["--default-output-bytes", "4GiB"], "a size, in bytes or like 64KiB, from 0 bytes to 4095 MiB"),
        (["--drain-s", "nan"], "a number from 0 s to 86400 s"),
        (["--bind", "here"], "HOST:PORT, with an IPv6 host in brackets and a port from 0 to 65535"),
        (["--bind", "0.0.0.0:80"], "a loopback address, unless there is a --token-file"),
        (["--default-fuel", "9223372036854775807", "--max-fuel", "4"], "at most --max-fuel"),
        (["--deregistration-delay-s", "31.0"], "at most --drain-s, of which it is a part"),
        (
            ["--max-memory-bytes", "268435456", "--max-runners-memory-bytes", "256MiB"],
            "8 MiB below --max-runners-memory-bytes, which all runners share",
        ),
        (["--file-dir", "here"], "absolute paths"),
        (["--worker-name", "a b"], "1 to 253 visible ASCII characters"),
        (["--config", "/nowhere"], "a file that can be read (No such file or directory)"),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(argv: list[str], right: str) -> None:
    flag, value = argv[:2]
    assert str(refused(*argv)) == f"{flag}: {value!r} is not right; it must be {right}"


def test_a_wrong_variable_and_a_wrong_key_are_named_as_they_were_written(toml: Path) -> None:
    assert refused(env={"GALAGO_MAX_QUEUED": "many"}).option == "GALAGO_MAX_QUEUED"
    toml.write_text('max_queued = "many"\n')
    assert refused("--config", str(toml)).option == f"{toml}: max_queued"
    assert refused(env={"GALAGO_ALLOW_UNSEALED": "perhaps"}).right == "true or false"


def test_a_file_that_is_no_toml_is_refused(toml: Path) -> None:
    toml.write_text("max_queued: 3\n")
    assert "valid TOML" in refused("--config", str(toml)).right


def test_the_data_directory_must_be_given() -> None:
    with pytest.raises(ConfigError, match="--data-dir: '' is not right; it must be given"):
        Config.resolve({}, {})
    assert Config.resolve({}, {}, required=()).data_dir == ""


def test_a_data_directory_whose_sockets_would_have_too_long_names_is_refused() -> None:
    assert refused("--data-dir", "/tmp/" + "d" * 100).right == "at most 89 bytes long, for the sockets below it"


def test_a_relative_data_directory_becomes_absolute() -> None:
    assert load("--data-dir", "here").data_dir == os.path.realpath("here")


def test_an_option_is_never_abbreviated() -> None:
    with pytest.raises(click.UsageError, match="--max-queue"):
        load("--max-queue", "1")


def test_lists_come_repeated_or_separated_or_as_toml(toml: Path) -> None:
    assert load("--allowed-host", "a", "--allowed-host", "b").allowed_hosts == ("a", "b")
    assert load(env={"GALAGO_ALLOWED_HOSTS": "a; b;"}).allowed_hosts == ("a", "b")
    toml.write_text('allowed_hosts = ["a", "b"]\n')
    assert load("--config", str(toml)).allowed_hosts == ("a", "b")


@pytest.mark.parametrize(("text", "expected"), [("yes", True), ("1", True), ("False", False), ("off", False)])
def test_a_switch_is_read_from_the_environment(text: str, expected: bool) -> None:
    assert load(env={"GALAGO_ALLOW_UNSEALED": text}).allow_unsealed is expected


def test_a_switch_can_be_turned_back_on_the_command_line() -> None:
    assert load("--no-allow-unsealed", env={"GALAGO_ALLOW_UNSEALED": "1"}).allow_unsealed is False


@pytest.mark.parametrize(
    ("text", "expected"), [("65536", 65_536), ("64KiB", 65_536), ("2 MiB", 2 << 20), ("1GiB", 1 << 30), ("4096B", 4096)]
)
def test_sizes_have_binary_suffixes(text: str, expected: int) -> None:
    assert load("--max-module-bytes", text).max_module_bytes == expected


def test_a_token_file_allows_other_addresses() -> None:
    assert load("--bind", "0.0.0.0:80", "--token-file", "/t").bind == "0.0.0.0:80"


def test_a_volume_must_be_a_directory_apart_from_the_data_directory(tmp_path: Path) -> None:
    assert "NAME=PATH" in refused("--volume", f"{tmp_path}").right
    assert "NAME=PATH" in refused("--volume", f"a={tmp_path}/nowhere").right
    inside = refused("--data-dir", str(tmp_path), "--volume", f"a={tmp_path}")
    assert inside.right == "apart from the data directory, and a isn't"
    twice = refused("--data-dir", str(tmp_path / "d"), "--volume", "a=/usr", "--volume", "a=/bin")
    assert twice.right == "named differently"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=/usr", Volume("a", "/usr")),
        ("a=/usr,uid=7,gid=8", Volume("a", "/usr", 7, 8)),
        ("a=/usr,uid=7", None),
        ("a=/usr,uid=0,gid=8", None),
        ("a=/usr,uid=7,uid=8", None),
        ("A=/usr", None),
        ("a=usr", None),
        ("=/usr", None),
    ],
)
def test_volumes(text: str, expected: Volume | None) -> None:
    assert read_volume(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8470", ("127.0.0.1", 8470)),
        ("[::1]:0", ("::1", 0)),
        ("host.example:65535", ("host.example", 65535)),
        ("::1:80", None),
        ("host:65536", None),
        ("host", None),
        (":80", None),
    ],
)
def test_addresses(text: str, expected: tuple[str, int] | None) -> None:
    assert split_address(text) == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("a.b", False)],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_what_was_handed_over_is_what_was_loaded(toml: Path) -> None:
    config = load("--config", str(toml), "--allowed-host", "a", "--drain-s", "0.5")
    assert Config.from_bytes(config.to_bytes()) == config


def test_it_is_handed_over_in_a_file_that_can_be_rewritten() -> None:
    fd = os.memfd_create("config")
    try:
        for config in (load("--allowed-host", "a" * 1000), load()):
            config.write_fd(fd)
            assert Config.from_fd(fd) == config
    finally:
        os.close(fd)


@given(st.binary(max_size=200))
def test_what_nobody_handed_over_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError):
        Config.from_bytes(data + b"!")


def test_what_sighup_cannot_change_is_named() -> None:
    before, after = load(), load("--bind", "127.0.0.1:1", "--max-runners", "1", "--max-connections", "1")
    assert restart_only(before, after) == ["--bind", "--max-runners"]


def test_sighup_changes_nothing_that_the_coordinator_goes_by() -> None:
    """It is made for one configuration, and reads no other while it runs."""
    sources = "".join(path.read_text() for path in (ROOT / "worker" / "coordinator").glob("*.py"))
    named = set(re.findall(r"config\.([a-z_]+)", sources)) & {option.name for option in fields(Config)}
    assert set() == {option.name for option in fields(Config) if option.metadata["reload"]} & named


def test_the_coordinator_takes_the_connections_of_as_many_api_workers_as_a_reload_may_have() -> None:
    (most,) = [option.metadata["high"] for option in fields(Config) if option.name == "api_workers"]
    assert 2 * most == MAX_CONNECTIONS


def test_every_default_is_in_its_own_range() -> None:
    config = Config()
    for option in fields(Config):
        if option.metadata["low"] is not None:
            value = getattr(config, option.name)
            assert config_values.parse(option, option.name, value) == value
