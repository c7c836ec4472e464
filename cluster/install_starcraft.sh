#!/usr/bin/env bash
# Installs StarCraft II for Linux, the maps of SMAC and the Python packages `smac` and `smacv2`, none of which is on PyPI.
#
#     bash cluster/install_starcraft.sh                  into ~/StarCraftII and the Python that `python` is
#     SC2PATH=/data/StarCraftII PYTHON=.venv/bin/python bash cluster/install_starcraft.sh
#
# The SHA-256 of both archives is printed. Pass the values found on one machine to the next; any other archive is refused:
#
#     SC2_SHA256=... SMAC_MAPS_SHA256=... bash cluster/install_starcraft.sh
#
# About 4 GB, some minutes. What is there already is left alone. By installing the game you accept Blizzard's AI and
# Machine Learning License (https://blzdistsc2-a.akamaihd.net/AI_AND_MACHINE_LEARNING_LICENSE.html), whose wording is
# the password of the archive. In a cluster file, add to setup_commands, after the installation of the package:
#     - bash ~/lorasa-rllib/cluster/install_starcraft.sh
set -euo pipefail

game=${SC2PATH:-$HOME/StarCraftII}
python=${PYTHON:-python}
version=${SC2_VERSION:-4.10}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# pysc2 pins a protobuf that ray cannot use; pys2clientprotocol holds the same messages for protobuf 6 and 7.
"$python" -m pip install -q --no-deps "pysc2==4.0.0"
"$python" -m pip install -q "pys2clientprotocol==1.0.2" absl-py websocket-client portpicker mpyq six psutil pygame-ce
# By commit: what a branch holds may change overnight.
smac=d6aab33f76abc3849c50463a8592a84f59a5ef84
smacv2=577ab5a2cff2391f8df582da5731ea9cd6adf3c6
"$python" -m pip install -q --no-deps "git+https://github.com/oxwhirl/smac.git@$smac"
"$python" -m pip install -q --no-deps "git+https://github.com/oxwhirl/smacv2.git@$smacv2"

# check_archive FILE SHA256 VARIABLE: prints the checksum of FILE, and exits if SHA256 is given and differs.
check_archive() {
    local found
    found=$(sha256sum "$1" | cut -d " " -f 1)
    echo "$3=$found"
    if [ -n "$2" ] && [ "$2" != "$found" ]; then
        echo "The archive has another checksum than $3=$2: it was not unpacked. Check where it comes from." >&2
        exit 1
    fi
}

if [ ! -d "$game/Versions" ]; then
    echo "Fetching StarCraft II $version into $game."
    curl -fL --retry 3 -o "$work/game.zip" "https://blzdistsc2-a.akamaihd.net/Linux/SC2.$version.zip"
    check_archive "$work/game.zip" "${SC2_SHA256:-}" SC2_SHA256
    unzip -q -P iagreetotheeula "$work/game.zip" -d "$work"
    mkdir -p "$(dirname "$game")"
    mv "$work/StarCraftII" "$game"
fi

if [ ! -f "$game/Maps/SMAC_Maps/32x32_flat.SC2Map" ]; then
    echo "Fetching the maps into $game/Maps/SMAC_Maps."
    curl -fL --retry 3 -o "$work/maps.zip" \
        "https://github.com/oxwhirl/smacv2/releases/download/maps/SMAC_Maps.zip"
    check_archive "$work/maps.zip" "${SMAC_MAPS_SHA256:-}" SMAC_MAPS_SHA256
    mkdir -p "$game/Maps/SMAC_Maps"
    unzip -q -o "$work/maps.zip" -d "$work/maps"
    find "$work/maps" -name "*.SC2Map" -exec cp {} "$game/Maps/SMAC_Maps/" \;
fi

echo "Done. If the game is not in ~/StarCraftII, set SC2PATH=$game where you train."
