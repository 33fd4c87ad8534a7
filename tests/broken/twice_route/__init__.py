from modules import RouteSpec


def register(host):
    host.add_route(RouteSpec("again", lambda values, owner: {}))
    host.add_route(RouteSpec("again", lambda values, owner: {}))
