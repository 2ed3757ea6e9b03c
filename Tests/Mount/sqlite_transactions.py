#!/usr/bin/env python3
"""SQLite with every transaction synced: sqlite_transactions.py MOUNTPOINT"""
import random
import sqlite3
import threading

from harness import SEED, check, fresh, main, pick

TRANSACTIONS = pick(200, 2_000)


def transactions(path, journal):
    choose = random.Random(SEED)
    database = sqlite3.connect(path, isolation_level=None)
    assert database.execute(f"PRAGMA journal_mode={journal}").fetchone()[0] == journal
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, amount INTEGER, filler BLOB)")
    database.execute("CREATE INDEX by_amount ON account(amount)")
    with database:
        database.executemany("INSERT INTO account VALUES (?, 100, ?)",
                             ((number, choose.randbytes(200)) for number in range(1_000)))
    for number in range(TRANSACTIONS):
        one, two = choose.randrange(1_000), choose.randrange(1_000)
        database.execute("BEGIN IMMEDIATE")
        filler = choose.randbytes(300)
        database.execute("UPDATE account SET amount = amount - 7, filler = ? WHERE id = ?", (filler, one))
        database.execute("UPDATE account SET amount = amount + 7 WHERE id = ?", (two,))
        database.execute("ROLLBACK" if number % 10 == 9 else "COMMIT")
    check_database(database)
    database.close()
    with sqlite3.connect(path) as again:
        check_database(again)
    again.close()


def check_database(database):
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert database.execute("SELECT SUM(amount), COUNT(*) FROM account").fetchone() == (100_000, 1_000)


@check(f"{TRANSACTIONS} transactions with a rollback journal leave a whole database")
def rollback_journal(mountpoint):
    transactions(f"{fresh(mountpoint, 'sqlite-delete')}/db", "delete")


@check(f"{TRANSACTIONS} transactions with a write-ahead log, in shared memory on the mount, leave a whole database")
def write_ahead_log(mountpoint):
    transactions(f"{fresh(mountpoint, 'sqlite-wal')}/db", "wal")


@check("writers that wait for one another's locks lose no transaction")
def concurrent(mountpoint):
    path, each = f"{fresh(mountpoint, 'sqlite-threads')}/db", pick(25, 250)
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE counter (n INTEGER)")
        database.execute("INSERT INTO counter VALUES (0)")
    database.close()

    def count():
        connection = sqlite3.connect(path, timeout=60, isolation_level=None)
        for _ in range(each):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("UPDATE counter SET n = n + 1")
            connection.execute("COMMIT")
        connection.close()
    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    database = sqlite3.connect(path)
    assert database.execute("SELECT n FROM counter").fetchone() == (4 * each,)
    database.close()


if __name__ == "__main__":
    main()
