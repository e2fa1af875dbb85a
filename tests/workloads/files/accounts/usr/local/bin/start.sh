#!/bin/bash
# What the root entry point of Jupyter's images does where it is told of another user: the user of the image is renamed or made
# anew with another number, the home is moved, the user may use sudo, and sudo starts the command.
set -e
[ "$(id -u)" = 0 ] || exec "$@"
if [ -n "$NB_UID" ] && [ "$NB_UID" != 1001 ]; then
    userdel jovyan
    useradd --no-log-init --home-dir "/home/$NB_USER" --shell /bin/bash --uid "$NB_UID" --gid 100 --groups staff "$NB_USER"
else
    usermod --home "/home/$NB_USER" --login "$NB_USER" jovyan
fi
mkdir -p "/home/$NB_USER"
cp --archive /home/jovyan/. "/home/$NB_USER/"
[ -z "$CHOWN_HOME" ] || chown --recursive "$NB_USER:100" "/home/$NB_USER"
# The outputs belong to whom the run began as.
for place in ${CHOWN_EXTRA//,/ }; do chown "$NB_USER:100" "$place"; done
echo "$NB_USER ALL=(ALL) NOPASSWD:ALL" >/etc/sudoers.d/start
sed -r "s#Defaults\s+secure_path\s*=.*#Defaults secure_path=\"$PATH\"#" -i /etc/sudoers
cd "/home/$NB_USER"
exec sudo --preserve-env --set-home --user "$NB_USER" LD_LIBRARY_PATH="${LD_LIBRARY_PATH-}" PATH="$PATH" "$@"
