# All images in one go: `docker buildx bake` for this machine, `docker buildx bake pi` for a Pi.
# scripts/image/build (make images) calls it too, with wheels from outside and a bill of materials.
variable "VERSION" { default = "unknown" }
variable "REVISION" { default = "unknown" }
variable "TAG" { default = "latest" }
variable "BASE_IMAGE" { default = "" }
variable "BASE_IMAGE_ARM64" { default = "" }
variable "PIP_NO_INDEX" { default = "" }
variable "BUILD_NETWORK" { default = "default" }
# A proxy's certificate, and folders with the sources and wheels/ and tasks/ for each processor.
variable "CA" { default = "" }
variable "CONTEXT" { default = "." }
variable "CONTEXT_ARM64" { default = "." }

group "default" { targets = ["agent", "coordinator"] }
group "pi" { targets = ["agent-arm64", "coordinator-arm64"] }
group "all" { targets = ["agent", "coordinator", "agent-arm64", "coordinator-arm64"] }

target "common" {
  network = BUILD_NETWORK
  secret  = CA == "" ? [] : ["id=ca,src=${CA}"]
  args = {
    VERSION      = VERSION
    REVISION     = REVISION
    PIP_NO_INDEX = PIP_NO_INDEX == "" ? null : PIP_NO_INDEX
  }
}

target "native" {
  inherits = ["common"]
  context  = CONTEXT
  args     = { BASE_IMAGE = BASE_IMAGE == "" ? null : BASE_IMAGE }
}

target "arm64" {
  inherits  = ["common"]
  platforms = ["linux/arm64"]
  context   = CONTEXT_ARM64
  args      = { BASE_IMAGE = BASE_IMAGE_ARM64 == "" ? null : BASE_IMAGE_ARM64 }
}

target "agent" {
  inherits   = ["native"]
  dockerfile = "Dockerfile.arm64"
  tags       = ["flctl-agent:${TAG}"]
}

target "coordinator" {
  inherits   = ["native"]
  dockerfile = "Dockerfile.coordinator"
  tags       = ["flctl-coordinator:${TAG}"]
}

target "agent-arm64" {
  inherits   = ["arm64"]
  dockerfile = "Dockerfile.arm64"
  tags       = ["flctl-agent:${TAG}-arm64"]
}

target "coordinator-arm64" {
  inherits   = ["arm64"]
  dockerfile = "Dockerfile.coordinator"
  tags       = ["flctl-coordinator:${TAG}-arm64"]
}
