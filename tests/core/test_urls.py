"""Which URLs are fetched from: told from the text, and from the addresses that a name leads to."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.config import Config
from worker.core.urls import FetchRules, FileUrl, HttpUrl, check_addresses, check_url, is_global, parse_url
from worker.errors import UrlRefused


@dataclass(frozen=True)
class Rules:
    fetch_allow: tuple[str, ...] = ()
    file_dirs: tuple[str, ...] = ()


NONE = Rules()
FILES = Rules(file_dirs=("/srv/modules", "/data/wasm/"))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://example.com", HttpUrl("http", "example.com", 80, "/")),
        ("https://Example.COM/a/b.wasm?v=1&w=2", HttpUrl("https", "example.com", 443, "/a/b.wasm?v=1&w=2")),
        ("https://example.com:8443/%2e%2e/x", HttpUrl("https", "example.com", 8443, "/%2e%2e/x")),
        ("http://example.com./x", HttpUrl("http", "example.com", 80, "/x")),
        ("http://8.8.8.8/x", HttpUrl("http", "8.8.8.8", 80, "/x")),
        ("http://[2001:4860:4860::8888]:81/", HttpUrl("http", "2001:4860:4860::8888", 81, "/")),
        ("http://xn--bcher-kva.example/", HttpUrl("http", "xn--bcher-kva.example", 80, "/")),
        ("file:///srv/modules/a/b.wasm", FileUrl("/srv/modules", "a/b.wasm")),
        ("file:/srv/modules/a%20b%3F", FileUrl("/srv/modules", "a b?")),
        ("file://localhost/data/wasm/c", FileUrl("/data/wasm/", "c")),
    ],
)
def test_a_url_is_read_into_its_parts(url: str, expected: HttpUrl | FileUrl) -> None:
    assert expected == parse_url(url, FILES)
    assert check_url(url, FILES) is None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "1 to 2048 characters, this has 0"),
        ("http://example.com/" + "a" * 2048, "this has 2067"),
        ("http://example.com/a b", "visible ASCII"),
        ("http://example.com/\n", "visible ASCII"),
        ("http://exämple.com/", "visible ASCII"),
        ("http://example.com\\@evil.com/", "no backslash"),
        ("http://example.com/#top", "no fragment"),
        ("example.com/a", "not by a URL without scheme"),
        ("ftp://example.com/a", "not by ftp"),
        ("gopher://example.com/a", "not by gopher"),
        ("http://user@example.com/", "no user and no password"),
        ("http://user:pw@example.com/", "no user and no password"),
        ("http://example.com@8.8.8.8/", "no user and no password"),
        ("http:///a", "names a host"),
        ("http:example.com", "names a host"),
        ("http://example.com:0/", "1 to 65535, not 0"),
        ("http://example.com:65536/", "isn't a URL"),
        ("http://example.com:abc/", "isn't a URL"),
        ("http://[::1/", "isn't a URL"),
        ("http://[fe80::1%25eth0]/", "isn't"),
        ("http://exa%6dple.com/", "isn't a host's name"),
        ("http://-a.example/", "isn't a host's name"),
        ("http://a..example/", "isn't a host's name"),
        ("http://127.1/", "four decimal numbers"),
        ("http://2130706433/", "four decimal numbers"),
        ("http://0x7f.0.0.1/", "four decimal numbers"),
        ("http://0x7f000001/", "four decimal numbers"),
        ("http://127.0.0.01/", "four decimal numbers"),
        ("http://127.0.0.1/", "isn't a global address"),
        ("http://169.254.169.254/latest/meta-data", "isn't a global address"),
        ("http://[::1]/", "isn't a global address"),
        ("http://[::ffff:127.0.0.1]/", "isn't a global address"),
        ("http://[::ffff:a9fe:a9fe]/", "isn't a global address"),
    ],
)
def test_a_url_that_cannot_be_fetched_from_is_refused_with_why(url: str, said: str) -> None:
    refused = check_url(url, FILES)
    assert refused is not None
    assert said in refused


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file:///etc/passwd", "lies below none of the directories"),
        ("file:///srv/modules", "lies below none"),
        ("file:///srv/modules2/a", "lies below none"),
        ("file:///srv/modules/../../etc/passwd", "without empty parts"),
        ("file:///srv/modules/%2e%2e/a", "without empty parts"),
        ("file:///srv/modules/a%2f..%2fb", "without empty parts"),
        ("file:///srv/modules//a", "without empty parts"),
        ("file:///srv/modules/a/", "without empty parts"),
        ("file:///srv/modules/a%00", "NUL"),
        ("file:///srv/modules/%ff", "UTF-8"),
        ("file:srv/modules/a", "absolute"),
        ("file:", "absolute"),
        ("file://example.com/srv/modules/a", "names no host"),
        ("file:///srv/modules/a?b", "no query"),
    ],
)
def test_a_file_outside_of_the_directories_is_refused_with_why(url: str, said: str) -> None:
    refused = check_url(url, FILES)
    assert refused is not None
    assert said in refused


def test_without_directories_there_are_no_file_urls() -> None:
    assert "off on this worker" in (check_url("file:///srv/modules/a", NONE) or "")


NOT_GLOBAL = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "192.168.0.1",
    "198.18.0.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]


@pytest.mark.parametrize("address", NOT_GLOBAL)
def test_an_address_that_is_not_the_internets_is_refused(address: str) -> None:
    assert not is_global(ipaddress.ip_address(address))
    with pytest.raises(UrlRefused, match="isn't a global address"):
        check_addresses("example.com", [address], NONE)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "2001:4860:4860::8888", "2a00::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_an_address_of_the_internet_is_not_refused(address: str) -> None:
    assert is_global(ipaddress.ip_address(address))
    check_addresses("example.com", [address], NONE)


def test_one_address_that_is_not_global_is_enough_to_refuse_all() -> None:
    with pytest.raises(UrlRefused, match=r"leads to 10\.0\.0\.1"):
        check_addresses("example.com", ["8.8.8.8", "10.0.0.1"], NONE)


def test_what_is_no_address_is_refused() -> None:
    for text in ("fe80::1%eth0", "example.com", ""):
        with pytest.raises(UrlRefused):
            check_addresses("example.com", [text], NONE)


@pytest.mark.parametrize(
    ("allow", "host", "address", "allowed"),
    [
        ("registry.internal", "registry.internal", "10.0.0.1", True),
        ("Registry.Internal.", "registry.internal", "10.0.0.1", True),
        ("registry.internal", "other.internal", "10.0.0.1", False),
        ("internal", "registry.internal", "10.0.0.1", False),
        ("10.0.0.1", "any.example", "10.0.0.1", True),
        ("10.0.0.1", "any.example", "10.0.0.2", False),
        ("10.0.0.0/24", "any.example", "10.0.0.2", True),
        ("10.0.0.0/24", "any.example", "::ffff:10.0.0.2", True),
        ("10.0.0.0/24", "any.example", "10.0.1.2", False),
        ("fd00::/8", "any.example", "fd00::1", True),
        ("::/0", "any.example", "10.0.0.1", False),
    ],
)
def test_what_is_not_global_can_be_allowed(allow: str, host: str, address: str, allowed: bool) -> None:
    rules = Rules(fetch_allow=(allow,))
    if allowed:
        check_addresses(host, [address], rules)
    else:
        with pytest.raises(UrlRefused):
            check_addresses(host, [address], rules)


def test_an_address_in_a_url_can_be_allowed() -> None:
    assert check_url("http://127.0.0.1:8080/a", Rules(fetch_allow=("127.0.0.1",))) is None
    assert check_url("http://[::1]:8080/a", Rules(fetch_allow=("::1",))) is None


def test_the_configuration_has_the_rules() -> None:
    config: FetchRules = Config(data_dir="/tmp/galago", file_dirs=("/srv/modules",))
    assert check_url("file:///srv/modules/a", config) is None
    assert check_url("http://127.0.0.1/", config) is not None


SCHEMES = st.sampled_from(["http", "https", "file"])


@given(st.text(max_size=60) | st.builds("{}://{}".format, SCHEMES, st.text(max_size=40)))
def test_any_text_is_read_or_refused(url: str) -> None:
    refused = check_url(url, FILES)
    if refused is None:
        parsed = parse_url(url, FILES)
        if isinstance(parsed, HttpUrl):
            assert (True, True) == (parsed.host.isascii(), parsed.target.startswith("/"))
        else:
            assert ".." not in parsed.path.split("/")
