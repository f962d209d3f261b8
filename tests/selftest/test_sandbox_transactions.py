"""Statements and transactions get the same verdict in the sandbox as with real commits."""

from peewee import IntegrityError, PeeweeException

from tests.harness.postgres import setUpModule, tearDownModule
from tests.selftest.verdicts import VerdictTestCase, names, verdict


def fails(db, sql="SELECT 1 / 0"):
    """Run a statement that fails, and return the name of its error."""
    try:
        db.execute_sql(sql)
    except PeeweeException as error:
        return type(error).__name__
    return None


class AutocommitTest(VerdictTestCase):
    """Statements outside a transaction."""

    @verdict
    def test_failed_statement_undoes_itself_alone(self, db, model):
        with self.request(db):
            model.create(name="a")
            failed = fails(db, "INSERT INTO item (name) VALUES ('a')")
            model.create(name="b")
        return failed, names(model)

    @verdict
    def test_uncaught_error_keeps_what_was_before(self, db, model):
        with self.request(db):
            model.create(name="a")
            model.create(name="a")

    @verdict
    def test_second_batch_of_bulk_create_fails(self, db, model):
        with self.request(db):
            model.bulk_create([model(name=name) for name in ("a", "b", "c", "a")], batch_size=2)

    @verdict
    def test_ids_after_bulk_create(self, db, model):
        items = [model(name=name) for name in "abc"]
        with self.request(db):
            model.bulk_create(items)
            fails(db, "INSERT INTO item (name) VALUES ('a')")
            return [item.id for item in items], model.create(name="d").id

    @verdict
    def test_on_conflict(self, db, model):
        with self.request(db):
            model.create(name="a")
            ignored = model.insert(name="a").on_conflict_ignore().execute()
            model.insert(name="a", number=5).on_conflict(
                conflict_target=[model.name], preserve=[model.number]
            ).execute()
            return ignored, model.get(name="a").number

    @verdict
    def test_get_or_create(self, db, model):
        with self.request(db):
            first = model.get_or_create(name="a")
            second = model.get_or_create(name="a")
            return first[1], second[1], first[0].id == second[0].id

    @verdict
    def test_several_statements_sent_together_are_one_transaction(self, db, model):
        with self.request(db):
            failed = fails(db, "INSERT INTO item (name) VALUES ('a'); INSERT INTO item (name) VALUES ('a')")
            db.execute_sql("INSERT INTO item (name) VALUES ('b'); INSERT INTO item (name) VALUES ('c')")
        return failed


class TransactionTest(VerdictTestCase):
    """Blocks, and their ends."""

    @verdict
    def test_exception_undoes_its_transaction_and_nothing_before(self, db, model):
        with self.request(db):
            model.create(name="a")
            with db.atomic():
                model.create(name="b")
                raise RuntimeError

    @verdict
    def test_exception_in_transaction_block(self, db, model):
        with self.request(db), db.transaction():
            model.create(name="b")
            raise RuntimeError

    @verdict
    def test_block_that_ends_well_stays(self, db, model):
        with self.request(db), db.atomic():
            model.create(name="a")
        with self.request(db):
            return names(model)

    @verdict
    def test_commit_midway_survives_a_later_failure(self, db, model):
        with self.request(db), db.transaction() as transaction:
            model.create(name="a")
            transaction.commit()
            model.create(name="b")
            raise RuntimeError

    @verdict
    def test_rollback_midway_and_more_statements(self, db, model):
        with self.request(db):
            model.create(name="a")
            with db.transaction() as transaction:
                model.create(name="b")
                transaction.rollback()
                model.create(name="c")

    @verdict
    def test_inner_block_fails(self, db, model):
        with self.request(db), db.atomic():
            model.create(name="a")
            try:
                with db.atomic():
                    model.create(name="b")
                    model.create(name="a")
            except IntegrityError:
                pass
            model.create(name="c")

    @verdict
    def test_outer_block_fails_after_inner_one(self, db, model):
        with self.request(db), db.atomic():
            with db.atomic():
                model.create(name="b")
            raise RuntimeError

    @verdict
    def test_inner_rollback_midway(self, db, model):
        with self.request(db), db.atomic():
            model.create(name="a")
            with db.atomic() as inner:
                model.create(name="b")
                inner.rollback()
                model.create(name="c")

    @verdict
    def test_failed_statement_poisons_the_transaction(self, db, model):
        with self.request(db), db.atomic():
            model.create(name="a")
            fails(db)
            model.create(name="b")

    @verdict
    def test_swallowed_error_followed_by_commit_rolls_back(self, db, model):
        with self.request(db):
            with db.atomic():
                model.create(name="a")
                fails(db)
            model.create(name="b")

    @verdict
    def test_manual_commit(self, db, model):
        with self.request(db), db.manual_commit():
            db.begin()
            model.create(name="a")
            db.commit()
            db.begin()
            model.create(name="b")
            db.rollback()
            model.create(name="c")

    @verdict
    def test_begin_commit_and_rollback_called_directly(self, db, model):
        with self.request(db):
            model.create(name="a")
            db.commit()
            db.rollback()
            db.begin()
            db.begin()
            model.create(name="b")
            db.commit()
            db.rollback()

    @verdict
    def test_session_start(self, db, model):
        with self.request(db):
            db.session_start()
            model.create(name="a")
            db.session_commit()
            db.session_start()
            model.create(name="b")
            return db.session_rollback(), db.session_commit()

    @verdict
    def test_decorator(self, db, model):
        @db.atomic()
        def make(name):
            model.create(name=name)
            if name == "b":
                raise RuntimeError

        with self.request(db):
            make("a")
            make("b")

    @verdict
    def test_transactions_in_plain_sql(self, db, model):
        with self.request(db):
            for statement in ("BEGIN", "SAVEPOINT application", "ROLLBACK TO application", "COMMIT AND CHAIN", "END"):
                db.execute_sql(statement)
                model.create(name=statement)
            db.execute_sql("/* really */ START TRANSACTION")
            model.create(name="undone")
            db.execute_sql("ABORT")
            return fails(db, "COMMIT AND CHAIN")

    @verdict
    def test_savepoints_of_the_code_and_their_errors(self, db, model):
        with self.request(db), db.atomic():
            db.execute_sql("SAVEPOINT s")
            model.create(name="a")
            fails(db)
            db.execute_sql("ROLLBACK TO s")
            db.execute_sql("RELEASE s")
            db.execute_sql("RELEASE s")

    @verdict
    def test_read_only_transaction(self, db, model):
        with self.request(db):
            db.execute_sql("BEGIN READ ONLY")
            failed = fails(db, "INSERT INTO item (name) VALUES ('a')")
            db.execute_sql("ROLLBACK")
            model.create(name="b")
        return failed


class HookTest(VerdictTestCase):
    """What runs after a commit."""

    @verdict
    def test_hooks_run_at_the_commit_of_the_code(self, db, model):
        ran = []
        with self.request(db):
            with db.atomic():
                with db.atomic():
                    db.after_commit(lambda: ran.append("committed"))
                ran.append("inside")
            db.after_commit(lambda: ran.append("at once"))
        return ran

    @verdict
    def test_hook_sees_what_was_committed_and_writes(self, db, model):
        seen = []
        with self.request(db), db.atomic():
            model.create(name="a")
            db.after_commit(lambda: (seen.append(names(model)), model.create(name="b")))
        return seen

    @verdict
    def test_hook_that_fails(self, db, model):
        with self.request(db), db.atomic():
            model.create(name="a")
            db.after_commit(lambda: model.create(name="a"))

    @verdict
    def test_hooks_of_a_rolled_back_block_do_not_run(self, db, model):
        ran = []
        with self.request(db):
            try:
                with db.atomic():
                    db.after_commit(lambda: ran.append("rolled back"))
                    raise RuntimeError
            except RuntimeError:
                pass
        return ran


class ConstraintTest(VerdictTestCase):
    """Constraints that are checked at COMMIT, and triggers that run then."""

    @verdict
    def test_deferred_constraint_is_checked_at_commit(self, db, model):
        with self.request(db), db.atomic():
            model.create(name="a")
            db.execute_sql("INSERT INTO child VALUES (1, 1)")

    @verdict
    def test_deferred_constraint_can_be_repaired_before_commit(self, db, model):
        with self.request(db):
            for number in (1, 2):
                with db.atomic():
                    db.execute_sql("INSERT INTO child VALUES (%s, %s)", (number, number))
                    db.execute_sql("INSERT INTO parent VALUES (%s)", (number,))

    @verdict
    def test_deferred_constraint_in_a_nested_block(self, db, model):
        with self.request(db), db.atomic():
            with db.atomic():
                db.execute_sql("INSERT INTO child VALUES (1, 1)")
            model.create(name="a")

    @verdict
    def test_deferred_constraint_outside_a_transaction(self, db, model):
        with self.request(db):
            failed = fails(db, "INSERT INTO child VALUES (1, 1)")
            model.create(name="a")
        return failed

    @verdict
    def test_deferred_constraint_fails_in_connection_commit(self, db, model):
        with self.request(db):
            db.begin()
            db.execute_sql("INSERT INTO child VALUES (1, 1)")
            failed = fails(db, "COMMIT")
            model.create(name="a")
        return failed

    @verdict
    def test_deferred_trigger_runs_once_at_commit(self, db, model):
        with self.request(db):
            with db.atomic():
                db.execute_sql("INSERT INTO parent VALUES (1)")
                db.execute_sql("INSERT INTO child VALUES (1, 1)")
                before = db.execute_sql("SELECT count(*) FROM noted").fetchone()
            model.create(name="a")
            return before, db.execute_sql("SELECT count(*) FROM noted").fetchone()

    @verdict
    def test_set_constraints_ends_with_its_transaction(self, db, model):
        with self.request(db):
            with db.atomic():
                db.execute_sql("SET CONSTRAINTS ALL DEFERRED")
                db.execute_sql("INSERT INTO later VALUES (1, 1)")
                db.execute_sql("INSERT INTO parent VALUES (1)")
            with db.atomic():
                db.execute_sql("SET CONSTRAINTS ALL IMMEDIATE")
            with db.atomic():
                db.execute_sql("INSERT INTO child VALUES (2, 2)")
                db.execute_sql("INSERT INTO parent VALUES (2)")
            with db.atomic():
                db.execute_sql("INSERT INTO later VALUES (3, 3)")

    @verdict
    def test_set_constraints_outside_a_transaction_does_nothing(self, db, model):
        with self.request(db):
            db.execute_sql("SET CONSTRAINTS ALL IMMEDIATE")
            with db.atomic():
                db.execute_sql("INSERT INTO child VALUES (2, 2)")
                db.execute_sql("INSERT INTO parent VALUES (2)")

    @verdict
    def test_constraint_that_the_code_creates_itself(self, db, model):
        with self.request(db):
            db.execute_sql("CREATE TABLE mine (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
            failed = fails(db, "INSERT INTO mine VALUES (1)")
            with db.atomic():
                db.execute_sql("INSERT INTO mine VALUES (2)")
                db.execute_sql("INSERT INTO parent VALUES (2)")
            db.execute_sql("DROP TABLE mine")
        return failed


class NeedsTransactionTest(VerdictTestCase):
    """Statements that PostgreSQL refuses outside a transaction, and allows inside."""

    @verdict
    def test_lock_table_outside(self, db, model):
        with self.request(db):
            db.execute_sql("LOCK TABLE item")

    @verdict
    def test_declare_cursor_outside(self, db, model):
        with self.request(db):
            db.execute_sql("DECLARE c CURSOR FOR SELECT 1")

    @verdict
    def test_savepoints_outside(self, db, model):
        with self.request(db):
            return [fails(db, sql) for sql in ("SAVEPOINT x", "ROLLBACK TO x")], db.execute_sql("RELEASE x")

    @verdict
    def test_all_of_them_inside(self, db, model):
        with self.request(db), db.atomic():
            db.execute_sql("LOCK TABLE item")
            db.execute_sql("DECLARE c CURSOR FOR SELECT generate_series(1, 3)")
            db.execute_sql("SAVEPOINT x")
            return db.execute_sql("FETCH 2 FROM c").fetchall()

    @verdict
    def test_cursor_ends_with_its_transaction(self, db, model):
        with self.request(db):
            with db.atomic():
                db.execute_sql("DECLARE c CURSOR FOR SELECT generate_series(1, 3)")
                db.execute_sql("DECLARE h CURSOR WITH HOLD FOR SELECT generate_series(1, 3)")
            return fails(db, "FETCH 2 FROM c"), db.execute_sql("FETCH 2 FROM h").fetchall()

    @verdict
    def test_now_is_harmless_text(self, db, model):
        with self.request(db):
            db.execute_sql("DO $$ BEGIN PERFORM 1; END $$")
            return db.execute_sql("SELECT 1 AS \"a; commit\", 'x; COMMIT', '''; ROLLBACK' -- ; COMMIT").fetchall()
