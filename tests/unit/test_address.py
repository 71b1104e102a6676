"""From a URL to where and how to connect (PROTOCOL 1)."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensync.address import Address, TransportName, is_loopback, parse_address
from ensync.errors import EnSyncValidationError

# url, canonical url
TABLE = [
    ("engine.example.com", "grpcs://engine.example.com:443"),
    ("engine.example.com:9000", "grpcs://engine.example.com:9000"),
    ("node.gms.ensync.cloud", "grpcs://node.gms.ensync.cloud:443"),
    ("192.168.1.5", "grpcs://192.168.1.5:443"),
    ("[2001:db8::7]", "grpcs://[2001:db8::7]:443"),
    ("[2001:0db8:0:0::7]:9000", "grpcs://[2001:db8::7]:9000"),
    ("localhost", "grpc://localhost:50051"),
    ("LOCALHOST", "grpc://localhost:50051"),
    ("localhost:9000", "grpc://localhost:9000"),
    ("127.0.0.1", "grpc://127.0.0.1:50051"),
    ("127.255.0.9:1", "grpc://127.255.0.9:1"),
    ("[::1]", "grpc://[::1]:50051"),
    ("[0:0::1]:65535", "grpc://[::1]:65535"),
    ("grpcs://engine.example.com", "grpcs://engine.example.com:443"),
    ("grpcs://localhost", "grpcs://localhost:443"),
    ("grpcs://h:50051/", "grpcs://h:50051"),
    ("grpc://engine.example.com", "grpc://engine.example.com:50051"),
    ("GRPC://h:7", "grpc://h:7"),
    ("wss://h", "wss://h:443/message"),
    ("wss://h:8443/", "wss://h:8443/message"),
    ("https://h", "wss://h:443/message"),
    ("https://h/engine", "wss://h:443/engine/message"),
    ("https://h/a/b/", "wss://h:443/a/b/message"),
    ("ws://h", "ws://h:80/message"),
    ("ws://localhost:8082", "ws://localhost:8082/message"),
    ("ws://[::1]:8082/x", "ws://[::1]:8082/x/message"),
    ("http://h", "ws://h:80/message"),
    ("xn--mnchen-3ya.de", "grpcs://xn--mnchen-3ya.de:443"),
    ("my_container", "grpcs://my_container:443"),
]

# Names and addresses that merely look like loopback.
NOT_LOOPBACK = [
    "localhost.example.com",
    "notlocalhost",
    "localhost-2",
    "my.localhost.net",
    "127.0.0.1.example.com",
    "128.0.0.1",
    "0.0.0.0",
    "[::]",
    "[::2]",
    "[::ffff:127.0.0.1]",
]


@pytest.mark.parametrize(("url", "canonical"), TABLE)
def test_the_table_of_urls(url: str, canonical: str) -> None:
    assert parse_address(url).url == canonical


@pytest.mark.parametrize("url", [url for url, _ in TABLE])
def test_the_canonical_url_means_the_same(url: str) -> None:
    address = parse_address(url)
    below = address.url.removesuffix("/message")
    assert parse_address(below) == address


@pytest.mark.parametrize("host", NOT_LOOPBACK)
def test_what_only_looks_like_loopback_is_encrypted(host: str) -> None:
    assert parse_address(host).tls
    assert parse_address(f"{host}:50051").tls


@pytest.mark.parametrize("scheme", ["", "grpc://", "grpcs://", "ws://", "wss://", "http://"])
@pytest.mark.parametrize("host", ["h", "localhost", "[::1]"])
def test_disable_tls_works_on_every_url(scheme: str, host: str) -> None:
    plain = parse_address(scheme + host, disable_tls=True)
    usual = parse_address(scheme + host)
    assert not plain.tls
    assert (plain.host, plain.port, plain.path) == (usual.host, usual.port, usual.path)


@pytest.mark.parametrize("host", ["h", "h:443", "localhost", "127.0.0.1"])
def test_a_bare_host_of_the_websocket_engine_is_encrypted(host: str) -> None:
    address = parse_address(host, default_transport="websocket")
    name = host.removesuffix(":443")
    assert address == Address(name, 443, "websocket", tls=True, path="/message")


@pytest.mark.parametrize("default", ["grpc", "websocket"])
def test_a_scheme_is_stronger_than_the_default(default: TransportName) -> None:
    assert parse_address("ws://h", default_transport=default).transport == "websocket"
    assert parse_address("grpc://h", default_transport=default).transport == "grpc"


LONGEST_NAME = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])  # 253 characters


def test_the_longest_name_is_accepted() -> None:
    assert parse_address(LONGEST_NAME).host == LONGEST_NAME


REFUSED = [
    ("", "no host"),
    ("grpc://", "no host"),
    ("grpc:///x", "no host"),
    (":50051", "no host"),
    ("h:", "no host"),
    ("h:port", "no host"),
    ("h:-1", "no host"),
    ("h:+80", "no host"),
    ("h:1:2", "no host"),
    ("::1", "brackets"),
    ("[::1", "brackets"),
    ("[::1]x", "brackets"),
    ("[::1]:", "brackets"),
    ("[fe80::1%eth0]", "brackets"),
    ("[localhost]", "brackets"),
    ("[1.2.3.4]", "IP address"),
    ("[:::1]", "IP address"),
    ("127.1", "IP address"),
    ("1.2.3.256", "IP address"),
    ("127.0.0.01", "IP address"),
    ("2130706433", "IP address"),
    ("h:0", "from 1 to 65535"),
    ("h:65536", "from 1 to 65535"),
    ("a..b", "valid name"),
    ("h.", "valid name"),
    ("-h", "valid name"),
    ("h-", "valid name"),
    ("h%41", "valid name"),
    ("h;x", "valid name"),
    ("x" * 64, "valid name"),
    (LONGEST_NAME + "d", "valid name"),
    ("xn--99999999", "valid name"),
    ("münchen.de", "punycode"),
    ("h\n", "printable"),
    ("h\t:1", "printable"),
    ("h\x00", "printable"),
    (" h", "blanks"),
    ("h h", "blanks"),
    ("h\\@x", "printable"),
    ("ftp://h", "another scheme"),
    ("grpc+tls://h", "another scheme"),
    ("://h", "another scheme"),
    ("h/x://y", "another scheme"),
    ("h/path", "no path"),
    ("grpc://h/path", "no path"),
    ("grpcs://h//", "no path"),
    ("h?x=1", "no query"),
    ("wss://h?", "no query"),
    ("wss://h/x#y", "no fragment"),
    ("user@h", "user or a password"),
    ("grpcs://user:word@h", "user or a password"),
]


@pytest.mark.parametrize(("url", "problem"), REFUSED)
def test_what_is_refused_and_why(url: str, problem: str) -> None:
    with pytest.raises(EnSyncValidationError, match=problem) as caught:
        parse_address(url)
    assert "accepted are host, host:port, grpc://" in str(caught.value)


@pytest.mark.parametrize("url", ["wss://me:hunter2@h", "wss://h?token=hunter2", "h#hunter2"])
def test_no_message_shows_a_password(url: str) -> None:
    with pytest.raises(EnSyncValidationError) as caught:
        parse_address(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", [None, 1, b"h"])
def test_a_url_is_text(url: object) -> None:
    with pytest.raises(EnSyncValidationError, match="url must be a str"):
        parse_address(url)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_an_authority_has_brackets_around_ipv6() -> None:
    assert parse_address("grpc://[::1]:7").authority == "[::1]:7"
    assert parse_address("grpc://h").authority == "h:50051"


def test_an_address_is_a_value() -> None:
    address = parse_address("wss://h")
    assert pickle.loads(pickle.dumps(address)) == address
    assert {address: 1}[parse_address("https://h")] == 1
    with pytest.raises(AttributeError):
        address.port = 1  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_refused(url: str) -> None:
    try:
        address = parse_address(url)
    except EnSyncValidationError:
        return
    assert 1 <= address.port <= 65535
    assert address.tls or is_loopback(address.host) or "://" in url


@given(st.ip_addresses(v=4), st.integers(1, 65535))
def test_any_ipv4_address(ip: object, port: int) -> None:
    address = parse_address(f"{ip}:{port}")
    assert (address.host, address.port) == (str(ip), port)
    assert address.tls is not str(ip).startswith("127.")


@given(st.ip_addresses(v=6), st.integers(1, 65535))
def test_any_ipv6_address(ip: object, port: int) -> None:
    address = parse_address(f"[{ip}]:{port}")
    assert (address.host, address.port) == (str(ip), port)
    assert address.tls is (str(ip) != "::1")
