"""Whose jobs are at work. An admin sees everybody's, but not what was asked or made, and can stop any of them."""

from __future__ import annotations

from fastapi import APIRouter, Request

from modules.jobs.protocol import Json
from webui.api.v1.openapi import TAGS
from webui.security.auth import owner_of
from webui.services import Services

AT_WORK = ("queued", "running")
MOST = 1000


def add_queue_routes(routes: APIRouter, services: Services) -> None:
    """``/queue`` and ``/queue/JOB/cancel``."""

    def whose(request: Request) -> str | None:
        """None: everybody's."""
        owner = owner_of(request)
        return None if services.is_admin(owner) else owner

    @routes.get("/queue", tags=[TAGS.jobs])
    def queue(request: Request) -> Json:
        """The jobs at work that the visitor may stop, the next first: id, owner, kind, state and place in the line."""
        jobs = services.queue.list(whose(request), MOST, AT_WORK)
        told = [
            {
                "id": job.id,
                "owner": job.owner,
                "kind": job.kind,
                "state": job.state,
                "position": services.queue.position(job.id),
            }
            for job in jobs
        ]
        return {"jobs": sorted(told, key=lambda job: int(str(job["position"])))}

    @routes.post("/queue/{job_id}/cancel", tags=[TAGS.jobs])
    def cancel(request: Request, job_id: str) -> Json:
        """Stop a job of one's own or, as an admin, of anybody; 404 for the rest."""
        services.queue.cancel(whose(request), job_id)
        return {"id": job_id}
