/* SPDX-License-Identifier: MIT */
/*
 * oci.h - the documents of container images: what they say, checked
 *
 * OCI image-spec v1 (index, manifest, config), Docker's schema 2 of the same, and manifest.json of `docker
 * save`. They come from anywhere: a document is at most OCI_DOCUMENT_MAX bytes, and what is kept of one is
 * bounded. Malformed ones, and kinds that are none of these, are -EINVAL. All functions fill *ret in as a
 * whole or fail.
 */
#ifndef SBX_SNAP_IMAGE_OCI_H
#define SBX_SNAP_IMAGE_OCI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "util/buf.h"
#include "util/err.h"

enum {
	OCI_DOCUMENT_MAX = 4 << 20,
	OCI_LAYERS_MAX = 256,
	OCI_NAME_MAX = 255,
	OCI_DEPTH_MAX = 4, /* indexes in indexes */
	OCI_DIGEST = 64,   /* hexadecimal digits of a SHA-256 */
};

/* What one document says of another, or of a layer. */
struct oci_ref {
	char name[OCI_NAME_MAX + 1]; /* where it is in the container: "blobs/sha256/HEX", or docker's name */
	char digest[OCI_DIGEST + 1]; /* "": not known */
	uint64_t size;               /* UINT64_MAX: not known */
	bool is_index;               /* an index, not a manifest */
};

struct oci_manifest {
	struct oci_ref config;
	struct oci_ref layers[OCI_LAYERS_MAX]; /* the lowest first */
	unsigned nlayers;
};

struct oci_config {
	struct buf text; /* lines of an image's config (snap/image_config.h) */
	char diff_ids[OCI_LAYERS_MAX][OCI_DIGEST + 1];
	unsigned ndiffs;
};

/*
 * The manifest or index that an index leads to. tag: which one; "" if there is one only, or one for this
 * platform. -ENOENT: none of that tag; -EINVAL: several, which are named.
 */
int oci_index(const void *json, size_t n, const char *tag, struct oci_ref *ret, struct err *err);
int oci_manifest(const void *json, size_t n, struct oci_manifest *ret, struct err *err);
/* ret->text is the caller's to release, also after a failure. */
int oci_config(const void *json, size_t n, struct oci_config *ret, struct err *err);
/* manifest.json of a docker archive; names are those of its members. */
int oci_docker(const void *json, size_t n, const char *tag, struct oci_manifest *ret, struct err *err);

/* ---- documents of our own (oci_write.c) */

/* An image of one layer. */
struct oci_image {
	const char *name;         /* of a repository, or "" */
	const struct buf *config; /* lines of an image's config, checked */
	const char *digest, *diff_id;
	uint64_t size; /* of the layer */
	time_t created;
};

struct oci_document {
	char *text; /* terminated */
	char digest[OCI_DIGEST + 1];
};

/* *ret is to be released, also after a failure, which is -ENOMEM. */
int oci_write_config(const struct oci_image *image, struct oci_document *ret, struct err *err);
int oci_write_manifest(const struct oci_image *image, const struct oci_document *config,
		       struct oci_document *ret, struct err *err);
int oci_write_index(const struct oci_document *manifest, struct oci_document *ret, struct err *err);
/* manifest.json, for a layer DIGEST.tar and a config DIGEST.json. */
int oci_write_docker(const struct oci_image *image, const struct oci_document *config,
		     struct oci_document *ret, struct err *err);
void oci_document_release(struct oci_document *document);

#endif
