"""Settings are checked where they are given."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensync.errors import EnSyncValidationError
from ensync.options import (
    Backoff,
    Reconnect,
    check_app_key,
    check_choice,
    check_count,
    check_duration,
    from_environment,
    unknown_option,
    url_from_environment,
)

NO_DURATIONS = [True, False, "1", None, b"1", math.nan, math.inf, -math.inf, -1, -0.5, 10**400]


@pytest.mark.parametrize("value", [*NO_DURATIONS, 0, 0.0])
def test_a_duration_is_a_positive_finite_number(value: object) -> None:
    with pytest.raises(EnSyncValidationError, match=r"^request_timeout must be .*seconds"):
        check_duration("request_timeout", value)


@pytest.mark.parametrize("value", NO_DURATIONS)
def test_zero_is_all_that_allow_zero_allows(value: object) -> None:
    with pytest.raises(EnSyncValidationError, match="zero or more"):
        check_duration("delay", value, allow_zero=True)
    assert check_duration("delay", 0, allow_zero=True) == 0.0


@pytest.mark.parametrize("value", [1, 0.001, 86_400.0])
def test_a_duration_becomes_a_float(value: float) -> None:
    checked = check_duration("delay", value)
    assert (checked, type(checked)) == (value, float)


@pytest.mark.parametrize("value", [True, 1.0, "3", None, 0, -1])
def test_a_count_is_a_whole_number(value: object) -> None:
    with pytest.raises(EnSyncValidationError, match=r"^buffer_size must be .*1 or more"):
        check_count("buffer_size", value)


def test_a_count_may_have_another_minimum() -> None:
    assert check_count("size", 0, minimum=0) == 0
    with pytest.raises(EnSyncValidationError, match="2 or more, not 1"):
        check_count("size", 1, minimum=2)


def test_a_choice_is_one_of_the_accepted() -> None:
    assert check_choice("encryption", "sealed", ["sealed", "hybrid"]) == "sealed"


@pytest.mark.parametrize("value", ["Sealed", "", None, 1])
def test_another_choice_is_told_what_is_accepted(value: object) -> None:
    with pytest.raises(EnSyncValidationError, match="encryption must be one of 'sealed', 'hybrid'"):
        check_choice("encryption", value, ["sealed", "hybrid"])


def test_a_misspelt_option_is_named_with_the_nearest() -> None:
    error = unknown_option("connect()", {"reconect": "s3cret"}, ["reconnect", "tls", "generation"])
    assert type(error) is TypeError
    assert str(error) == "connect() has no option 'reconect': did you mean 'reconnect'?"


def test_only_the_nearest_is_proposed() -> None:
    message = str(unknown_option("f()", {"timeouts": 1}, ["timeout", "timeout_2"]))
    assert message == "f() has no option 'timeouts': did you mean 'timeout'?"


def test_an_unknown_option_is_told_what_there_is() -> None:
    error = unknown_option("connect()", {"zzz": 1}, ["tls", "generation"])
    assert str(error) == "connect() has no option 'zzz': it has generation, tls"


def test_every_unknown_option_is_named() -> None:
    message = str(unknown_option("connect()", {"TLS": 1, "generaton": 2}, ["tls", "generation"]))
    assert "'TLS': did you mean 'tls'?" in message
    assert "'generaton': did you mean 'generation'?" in message


# Reconnect and Backoff


def test_reconnect_has_the_documented_defaults() -> None:
    policy = Reconnect()
    assert (policy.initial, policy.maximum) == (0.5, 30.0)
    assert (policy.max_attempts, policy.healthy_after) == (10, 60.0)


def test_reconnect_is_a_value_of_keywords() -> None:
    assert {Reconnect(initial=1): "x"}[Reconnect(initial=1.0)] == "x"
    with pytest.raises(AttributeError):
        Reconnect().initial = 2.0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError):
        Reconnect(500, 30000)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("name", ["initial", "maximum", "healthy_after"])
@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, True, "1"])
def test_reconnect_refuses_what_is_no_duration(name: str, value: object) -> None:
    with pytest.raises(EnSyncValidationError, match=rf"Reconnect\.{name} must be"):
        Reconnect(**{name: value})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "10"])
def test_reconnect_refuses_what_is_no_count(value: int) -> None:
    with pytest.raises(EnSyncValidationError, match=r"Reconnect\.max_attempts must be"):
        Reconnect(max_attempts=value)


def test_the_longest_wait_is_not_below_the_first() -> None:
    with pytest.raises(EnSyncValidationError, match=r"below Reconnect\.initial, but 1\.0 < 2\.0"):
        Reconnect(initial=2, maximum=1)
    assert Reconnect(initial=2, maximum=2).maximum == 2.0


def test_waits_double_up_to_the_maximum_and_then_end() -> None:
    backoff = Backoff(Reconnect(initial=1, maximum=10, max_attempts=6), random=lambda: 1.0)
    assert [backoff.next_delay() for _ in range(7)] == [1, 2, 4, 8, 10, 10, None]
    assert backoff.attempts == 6


def test_the_jitter_is_full() -> None:
    backoff = Backoff(Reconnect(initial=1, maximum=10), random=iter([0.0, 0.5, 0.25]).__next__)
    assert [backoff.next_delay() for _ in range(3)] == [0, 1, 1]


def test_a_reset_starts_over() -> None:
    backoff = Backoff(Reconnect(initial=1, max_attempts=2), random=lambda: 1.0)
    assert [backoff.next_delay() for _ in range(3)] == [1, 2, None]
    backoff.reset()
    assert backoff.attempts == 0
    assert [backoff.next_delay() for _ in range(3)] == [1, 2, None]


@given(
    initial=st.floats(1e-3, 1e3),
    factor=st.floats(1, 1e6),
    jitter=st.floats(0, 1, exclude_max=True),
)
def test_without_an_end_every_wait_stays_in_its_bounds(
    initial: float, factor: float, jitter: float
) -> None:
    policy = Reconnect(initial=initial, maximum=initial * factor, max_attempts=None)
    backoff = Backoff(policy, random=lambda: jitter)
    for attempt in range(1100):  # 2**1100 is beyond what a float holds
        delay = backoff.next_delay()
        assert delay is not None
        assert 0 <= delay <= policy.maximum
        if attempt < 10:
            assert delay <= initial * 2**attempt


# The environment

ENVIRON = {
    "ENSYNC_URL": "grpc://engine",
    "ENSYNC_WS_URL": "ws://engine",
    "ENSYNC_APP_KEY": "app-key-1",
    "ENSYNC_SECRET_KEY": "secret",
}


def test_the_environment_fills_in_what_is_not_given() -> None:
    assert from_environment(None, None, None, ENVIRON) == ("grpc://engine", "app-key-1", "secret")


def test_the_websocket_engine_has_its_own_variable() -> None:
    assert from_environment(None, None, None, ENVIRON, websocket=True).url == "ws://engine"


def test_what_is_given_wins() -> None:
    given = from_environment("host", "other-key", "other", ENVIRON)
    assert given == ("host", "other-key", "other")


@pytest.mark.parametrize("missing", ["ENSYNC_URL", "ENSYNC_APP_KEY"])
@pytest.mark.parametrize("empty", [{}, None])
def test_a_missing_variable_is_named(missing: str, empty: object) -> None:
    environ = {**ENVIRON, missing: ""}
    if empty is None:
        del environ[missing]
    with pytest.raises(EnSyncValidationError, match=f"set the environment variable {missing}$"):
        from_environment(None, None, None, environ)


def test_the_websocket_variable_is_named_when_it_is_missing() -> None:
    with pytest.raises(EnSyncValidationError, match="ENSYNC_WS_URL"):
        url_from_environment(None, {}, websocket=True)


def test_a_secret_key_may_be_absent() -> None:
    assert from_environment("host", "app-key-1", None, {}).secret_key is None


def test_an_empty_argument_is_not_filled_in() -> None:
    with pytest.raises(EnSyncValidationError, match="app_key"):
        from_environment("host", "", None, ENVIRON)


def test_no_repr_shows_a_key() -> None:
    shown = repr(from_environment("host", "app-key-1", "secret", {}))
    assert "host" in shown
    assert "app-key-1" not in shown
    assert "secret" not in shown


# App keys


@pytest.mark.parametrize(
    "key", ["12345678", "x" * 4096, "ak_live_0123456789", "ключ-доступа", "with blank"]
)
def test_an_app_key_is_kept_as_it_is(key: str) -> None:
    assert check_app_key(key) == key


BAD_KEYS = ["", "1234567", " 12345678", "12345678\n", "1234;5678", "1234\x005678", "1234\ud8005678"]


@pytest.mark.parametrize("key", [*BAD_KEYS, "x" * 4097, None, b"12345678", 12345678])
def test_another_is_refused_and_not_shown(key: object) -> None:
    with pytest.raises(EnSyncValidationError, match=r"^app_key must") as caught:
        check_app_key(key)
    assert not key or str(key) not in str(caught.value)
    assert "5678" not in str(caught.value)
