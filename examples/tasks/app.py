"""A Tasks API as a user of Garrison would write it: each person has tasks, and nobody can read anybody else's."""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field

from garrison import Garrison, allow, public
from garrison.fastapi import Me


@asynccontextmanager
async def prepared(_app: FastAPI) -> AsyncIterator[None]:
    DATABASE.parent.mkdir(mode=0o700, exist_ok=True)
    with database() as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE IF NOT EXISTS tasks (id TEXT PRIMARY KEY, owner TEXT, title TEXT, done INT)")
        connection.execute("CREATE INDEX IF NOT EXISTS tasks_by_owner ON tasks (owner)")
    yield


app = FastAPI(title="Tasks", lifespan=prepared)
Garrison().protect(app)

DATABASE = Path("var/tasks.db")
PAGE = Path(__file__).with_name("index.html").read_text()
Title = Annotated[str, Field(min_length=1, max_length=200, examples=["Buy milk"])]


class NewTask(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    title: Title
    done: bool = False


class Changes(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    title: Title | None = None
    done: bool | None = None


class Task(BaseModel):
    id: UUID
    title: str
    done: bool


class Report(BaseModel):
    tasks: int
    done: int
    people: int


@contextmanager
def database() -> Iterator[sqlite3.Connection]:
    """Open the tasks' own database; what was written is on the disk before a call is answered."""
    with closing(sqlite3.connect(DATABASE, timeout=10)) as connection, connection:
        connection.row_factory = sqlite3.Row
        yield connection


def task_owner(id: UUID) -> str | None:
    """Tell Garrison whose task it is; anybody else gets the same 404 as for a task that does not exist."""
    with database() as connection:
        row = connection.execute("SELECT owner FROM tasks WHERE id = ?", (str(id),)).fetchone()
    return row["owner"] if row else None


@app.get("/", response_class=HTMLResponse, include_in_schema=False)
@public
async def home(request: Request) -> str:
    return PAGE.replace("%BASE%", str(request.base_url).rstrip("/"))


@app.get("/test")
@public
async def test() -> str:
    return "open to all"


@app.get("/test-auth")
@allow(signed_in=True)
async def test_auth(me: Me) -> dict[str, str]:
    return {"signed_in_as": me.id}


@app.get("/tasks")
@allow(scope="tasks:read")
def list_tasks(me: Me) -> list[Task]:
    with database() as connection:
        rows = connection.execute("SELECT id, title, done FROM tasks WHERE owner = ? ORDER BY rowid", (me.id,))
        return [Task.model_validate(dict(row)) for row in rows]


@app.post("/tasks", status_code=201)
@allow(scope="tasks:write")
def create_task(task: NewTask, me: Me) -> Task:
    created = Task(id=uuid4(), title=task.title, done=task.done)
    with database() as connection:
        connection.execute("INSERT INTO tasks VALUES (?, ?, ?, ?)", (str(created.id), me.id, task.title, task.done))
    return created


@app.get("/tasks/{id}")
@allow(owner=task_owner)
def read_task(id: UUID, me: Me) -> Task:
    with database() as connection:
        query = "SELECT id, title, done FROM tasks WHERE id = ? AND owner = ?"
        row = connection.execute(query, (str(id), me.id)).fetchone()
    if row is None:
        raise HTTPException(404)
    return Task.model_validate(dict(row))


@app.patch("/tasks/{id}")
@allow(owner=task_owner)
def change_task(id: UUID, changes: Changes, me: Me) -> Task:
    with database() as connection:
        connection.execute(
            "UPDATE tasks SET title = coalesce(?, title), done = coalesce(?, done) WHERE id = ? AND owner = ?",
            (changes.title, changes.done, str(id), me.id),
        )
    return read_task(id, me)


@app.delete("/tasks/{id}", status_code=204)
@allow(owner=task_owner)
def delete_task(id: UUID, me: Me) -> None:
    with database() as connection:
        connection.execute("DELETE FROM tasks WHERE id = ? AND owner = ?", (str(id), me.id))


@app.get("/reports/tasks")
@allow(role="admin")
def report() -> Report:
    with database() as connection:
        row = connection.execute("SELECT count(*), coalesce(sum(done), 0), count(DISTINCT owner) FROM tasks").fetchone()
    return Report(tasks=row[0], done=row[1], people=row[2])
