"""A Tasks API as a user of Garrison would write it: each person has tasks, and nobody can read anybody else's."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field

from examples.tasks.storage import chosen
from garrison import Garrison, allow, public
from garrison.fastapi import Me


@asynccontextmanager
async def prepared(_app: FastAPI) -> AsyncIterator[None]:
    await storage.open()
    try:
        yield
    finally:
        await storage.close()


app = FastAPI(title="Tasks", lifespan=prepared)
Garrison().protect(app)

storage = chosen()
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


async def task_owner(id: UUID) -> str | None:
    """Tell Garrison whose task it is; anybody else gets the same 404 as for a task that does not exist."""
    rows = await storage.rows("SELECT owner FROM tasks WHERE id = $1", str(id))
    return rows[0]["owner"] if rows else None


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
async def list_tasks(me: Me) -> list[Task]:
    rows = await storage.rows("SELECT id, title, done FROM tasks WHERE owner = $1 ORDER BY rowid", me.id)
    return [Task.model_validate(dict(row)) for row in rows]


@app.post("/tasks", status_code=201)
@allow(scope="tasks:write")
async def create_task(task: NewTask, me: Me) -> Task:
    created = Task(id=uuid4(), title=task.title, done=task.done)
    statement = "INSERT INTO tasks (id, owner, title, done) VALUES ($1, $2, $3, $4)"
    await storage.rows(statement, str(created.id), me.id, task.title, task.done)
    return created


@app.get("/tasks/{id}")
@allow(owner=task_owner)
async def read_task(id: UUID, me: Me) -> Task:
    return only(await storage.rows("SELECT id, title, done FROM tasks WHERE id = $1 AND owner = $2", str(id), me.id))


@app.patch("/tasks/{id}")
@allow(owner=task_owner)
async def change_task(id: UUID, changes: Changes, me: Me) -> Task:
    statement = (
        "UPDATE tasks SET title = coalesce($1, title), done = coalesce($2, done) WHERE id = $3 AND owner = $4 "
        "RETURNING id, title, done"
    )
    return only(await storage.rows(statement, changes.title, changes.done, str(id), me.id))


@app.delete("/tasks/{id}", status_code=204)
@allow(owner=task_owner)
async def delete_task(id: UUID, me: Me) -> None:
    await storage.rows("DELETE FROM tasks WHERE id = $1 AND owner = $2", str(id), me.id)


@app.get("/reports/tasks")
@allow(role="admin")
async def report() -> Report:
    (row,) = await storage.rows(
        "SELECT count(*) AS tasks, count(*) FILTER (WHERE done) AS done, count(DISTINCT owner) AS people FROM tasks"
    )
    return Report.model_validate(dict(row))


def only(rows: Sequence[Mapping[str, Any]]) -> Task:
    """Return the one task among the rows; it may have been deleted since its owner was looked up."""
    if not rows:
        raise HTTPException(404)
    return Task.model_validate(dict(rows[0]))
