"""Every statement on `devices`."""

from sqlalchemy import Connection, delete, insert, select, update

from garrison.core.ids import digest, new_id
from garrison.identity.devices.model import PURPOSE, devices


def find_device(connection: Connection, secret: str, account_id: str, now: float) -> str | None:
    """Return the id of the device with this secret if it is bound to this account and has not expired, or None."""
    query = select(devices.c.id).where(
        devices.c.secret_digest == digest(secret, purpose=PURPOSE),
        devices.c.account_id == account_id,
        devices.c.expires_at > now,
    )
    found: str | None = connection.execute(query).scalar_one_or_none()
    return found


def delete_devices(connection: Connection, account_id: str) -> None:
    """Forget every device of the account."""
    connection.execute(delete(devices).where(devices.c.account_id == account_id))


def touch_device(connection: Connection, device_id: str, *, now: float, expires_at: float) -> None:
    """Note that the device signed in again."""
    connection.execute(update(devices).where(devices.c.id == device_id).values(used_at=now, expires_at=expires_at))


def insert_device(
    connection: Connection, secret: str, account_id: str, *, now: float, expires_at: float, most: int
) -> str:
    """Bind a new device to the account and return its id; beyond `most`, those unused longest are forgotten."""
    device_id = new_id("dev")
    connection.execute(
        insert(devices).values(
            id=device_id,
            secret_digest=digest(secret, purpose=PURPOSE),
            account_id=account_id,
            created_at=now,
            used_at=now,
            expires_at=expires_at,
        )
    )
    kept = (
        select(devices.c.id)
        .where(devices.c.account_id == account_id)
        .order_by(devices.c.used_at.desc(), devices.c.id)
        .limit(most)
    )
    connection.execute(delete(devices).where(devices.c.account_id == account_id, devices.c.id.not_in(kept)))
    return device_id
