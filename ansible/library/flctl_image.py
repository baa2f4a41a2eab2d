"""Runs on the Pi: manages its images and their tags.

NAME:current runs, a rollback returns to NAME:previous, and NAME:next is loaded but does not run
yet. There are no others: an SD card is small.
"""

import json

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.flctl_engine import NotInstalled, Unusable, docker
from ansible.module_utils.flctl_identity import of_inspected

DOCUMENTATION = """
module: flctl_image
short_description: Load, promote and roll back the image of a flctl container
description:
  - Keeps at most two images, with the tags current and previous, and one that does not run yet.
  - An image is identified by its layers and its configuration, never by a label or by its id,
    which differs between engines.
options:
  name: {type: str, required: true, description: "The image's name without a tag."}
  state:
    type: str
    choices: [looked, loaded, pulled, promoted, swapped, absent]
    default: looked
    description:
      - V(looked) only reports. V(loaded) loads O(archive), V(pulled) pulls O(reference).
      - V(promoted) makes the image O(id) the current one, V(swapped) the previous one.
      - V(absent) removes all images of O(name).
  digest: {type: str, description: "Digest of the wanted image's layers and configuration."}
  archive: {type: path, description: "A file of C(docker save)."}
  reference: {type: str, description: "HOST/PATH/NAME:TAG of a registry, or …@DIGEST."}
  id: {type: str, description: "Id of the image to run."}
author: flctl
"""
RETURN = """
current: {type: dict, returned: always, description: "id, digest, version, layers; or empty."}
previous: {type: dict, returned: always, description: "The same for the previous image."}
wanted: {type: dict, returned: always, description: "The image with the digest, if present."}
"""

TAGS = ("current", "previous", "next")
NONE = {"id": "", "digest": "", "version": "", "layers": []}


class Images:
    def __init__(self, name, change):
        self.name, self.change = name, change
        self.changed = False
        self.by_tag = {tag: self.inspect(f"{name}:{tag}") for tag in TAGS}

    def inspect(self, reference):
        try:
            (found,) = json.loads(docker("image", "inspect", reference))
        except NotInstalled:
            if self.change:
                raise
            return dict(NONE)  # without an engine there are no images
        except Unusable as error:
            if "o such image" in str(error):
                return dict(NONE)
            raise
        digest, version = of_inspected(found)
        layers = found["RootFS"].get("Layers") or []
        return {"id": found["Id"], "digest": digest, "version": version, "layers": layers}

    def with_digest(self, digest):
        for tag in TAGS:
            if digest and self.by_tag[tag]["digest"] == digest:
                return self.by_tag[tag]
        return dict(NONE)

    def load(self, archive, digest):
        if self.with_digest(digest)["id"]:
            return
        self.changed = True
        if not self.change:
            return
        lines = docker("load", "--input", archive).splitlines()
        loaded = [line.split(": ", 1)[1] for line in lines if line.startswith("Loaded image")]
        if len(loaded) != 1:
            raise Unusable(f"{archive}: has {len(loaded)} images instead of one")
        self.take_in(loaded[0], digest)

    def pull(self, reference, digest):
        """The digest of the pulled image: `digest`, if one was announced."""
        if not self.change:
            self.changed = bool(digest)
            return digest or self.by_tag["current"]["digest"]
        docker("pull", "--quiet", reference)
        found = self.inspect(reference)
        if not self.with_digest(found["digest"])["id"]:
            self.changed = True
            self.take_in(reference, digest or found["digest"])
        return found["digest"]

    def take_in(self, reference, digest):
        """Tag the image next, and remove the name that it came with."""
        found = self.inspect(reference)
        if found["digest"] != digest:
            docker("image", "rm", reference)
            raise Unusable(f"{reference}: is not the announced image {digest[:12]}")
        old = self.by_tag["next"]
        self.tag(found, "next")
        if not reference.startswith("sha256:"):
            docker("image", "rm", reference)
        self.forget(old)

    def promote(self, image_id):
        current, previous = self.by_tag["current"], self.by_tag["previous"]
        if current["id"] != image_id:
            if current["id"]:
                self.tag(current, "previous")
            self.tag(self.inspect(image_id), "current")
            self.forget(previous)
        if self.by_tag["next"]["id"] == image_id:
            self.untag("next")

    def swap(self):
        current, previous = self.by_tag["current"], self.by_tag["previous"]
        if not previous["id"]:
            raise Unusable(f"there is no image {self.name}:previous to return to")
        self.tag(previous, "current")
        self.tag(current, "previous")

    def remove(self):
        for tag in TAGS:
            if self.by_tag[tag]["id"]:
                self.untag(tag)

    def tag(self, image, tag):
        self.changed = True
        self.by_tag[tag] = image
        if self.change:
            docker("image", "tag", image["id"], f"{self.name}:{tag}")

    def untag(self, tag):
        self.changed = True
        self.by_tag[tag] = dict(NONE)
        if self.change:
            docker("image", "rm", f"{self.name}:{tag}")

    def forget(self, image):
        """Free its space, unless it still has another tag."""
        if self.change and image["id"] and image not in self.by_tag.values():
            docker("image", "rm", image["id"])


def act(module):
    wish = module.params
    images = Images(wish["name"], change=not module.check_mode)
    digest = wish["digest"]
    if wish["state"] == "loaded":
        images.load(wish["archive"], digest)
    elif wish["state"] == "pulled":
        digest = images.pull(wish["reference"], digest)
    elif wish["state"] == "promoted":
        images.promote(wish["id"])
    elif wish["state"] == "swapped":
        images.swap()
    elif wish["state"] == "absent":
        images.remove()
    tags = {tag: images.by_tag[tag] for tag in TAGS}
    return {"changed": images.changed, "wanted": images.with_digest(digest), **tags}


def main():
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {
                "type": "str",
                "choices": ["looked", "loaded", "pulled", "promoted", "swapped", "absent"],
                "default": "looked",
            },
            "digest": {"type": "str"},
            "archive": {"type": "path"},
            "reference": {"type": "str"},
            "id": {"type": "str"},
        },
        required_if=[
            ("state", "loaded", ["archive", "digest"]),
            ("state", "pulled", ["reference"]),
            ("state", "promoted", ["id"]),
        ],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**act(module))
    except Unusable as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
