"""Five things of a Mac's setup, in pyinfra: the same as in plain.yml."""

from pyinfra.operations import files, launchd

OURS = {"user": "root", "group": "wheel"}

files.directory(name="Make the folder", path="/opt/ds4", mode="755", **OURS)
files.directory(name="Make the folder of settings", path="/opt/ds4/etc", mode="755", **OURS)
files.put(name="Write the settings", src="server.conf", dest="/opt/ds4/etc/server.conf", mode="644", **OURS)
files.link(name="Point to the release", path="/opt/ds4/engine/current", target="releases/1")
launchd.service(name="Start the server", service="com.ds4fleet.server", running=True)
