def register(host):
    host.add_asset("closing.css")
