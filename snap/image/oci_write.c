/* SPDX-License-Identifier: MIT */
/* oci_write.c - the documents of a container image that we make */
#include <cjson/cJSON.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "snap/image/oci.h"
#include "snap/image_config.h"

static const char manifest_type[] = "application/vnd.oci.image.manifest.v1+json",
		  config_type[] = "application/vnd.oci.image.config.v1+json",
		  layer_type[] = "application/vnd.oci.image.layer.v1.tar+gzip";

void oci_document_release(struct oci_document *document)
{
	free(document->text);
	document->text = NULL;
}

/* Takes the tree over. ok: nothing was missing when it was made. */
static int finish(cJSON *root, bool ok, struct oci_document *ret, struct err *err)
{
	uint8_t sum[SHA256_DIGEST_SIZE];
	struct sha256_ctx sha;
	unsigned i;

	*ret = (struct oci_document){ .text = ok ? cJSON_PrintUnformatted(root) : NULL };
	cJSON_Delete(root);
	if (!ret->text)
		return err_set(err, -ENOMEM, "out of memory");
	sha256_init(&sha);
	sha256_update(&sha, strlen(ret->text), (const uint8_t *)ret->text);
	sha256_digest(&sha, sizeof(sum), sum);
	for (i = 0; i < sizeof(sum); i++)
		snprintf(ret->digest + 2 * i, 3, "%02x", sum[i]);
	return 0;
}

/* ---- the config */

static bool append(cJSON *list, const char *text)
{
	cJSON *item = cJSON_CreateString(text);

	if (list && item && cJSON_AddItemToArray(list, item))
		return true;
	cJSON_Delete(item);
	return false;
}

static bool add_list_word(cJSON *object, const char *key, const char *text)
{
	cJSON *list = cJSON_GetObjectItemCaseSensitive(object, key);

	return append(list ? list : cJSON_AddArrayToObject(object, key), text);
}

static bool add_command(cJSON *object, const struct buf *config)
{
	static const char *const lists[][2] = { { "env", "Env" },
						{ "entrypoint", "Entrypoint" },
						{ "cmd", "Cmd" } };
	static char value[IMAGE_CONFIG_MAX];
	bool ok = object;
	size_t pos = 0, i;
	char key[16];

	while (ok && image_config_next(config, &pos, key, value, sizeof(value))) {
		for (i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
			if (!strcmp(key, lists[i][0]))
				ok = ok && add_list_word(object, lists[i][1], value);
		/* Of those that may come once, the last holds. */
		if (!strcmp(key, "workdir") || !strcmp(key, "user")) {
			const char *name = *key == 'w' ? "WorkingDir" : "User";

			cJSON_DeleteItemFromObjectCaseSensitive(object, name);
			ok = cJSON_AddStringToObject(object, name, value);
		}
	}
	return ok;
}

static bool add_diff(cJSON *root, const char *diff_id)
{
	cJSON *rootfs = cJSON_AddObjectToObject(root, "rootfs");
	char text[OCI_DIGEST + 8];

	snprintf(text, sizeof(text), "sha256:%s", diff_id);
	return rootfs && cJSON_AddStringToObject(rootfs, "type", "layers") &&
	       append(cJSON_AddArrayToObject(rootfs, "diff_ids"), text);
}

static bool add_history(cJSON *root, const char *when)
{
	cJSON *list = cJSON_AddArrayToObject(root, "history"), *step = cJSON_CreateObject();

	if (list && step && cJSON_AddItemToArray(list, step))
		return cJSON_AddStringToObject(step, "created", when) &&
		       cJSON_AddStringToObject(step, "created_by", "sbx image export");
	cJSON_Delete(step);
	return false;
}

int oci_write_config(const struct oci_image *image, struct oci_document *ret, struct err *err)
{
	cJSON *root = cJSON_CreateObject();
	char when[32] = "";
	struct tm tm;
	bool ok;

	if (gmtime_r(&image->created, &tm))
		strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm);
	ok = root && cJSON_AddStringToObject(root, "created", when) &&
	     cJSON_AddStringToObject(root, "architecture", "amd64") &&
	     cJSON_AddStringToObject(root, "os", "linux") &&
	     add_command(cJSON_AddObjectToObject(root, "config"), image->config) &&
	     add_diff(root, image->diff_id) && add_history(root, when);
	return finish(root, ok, ret, err);
}

/* ---- what leads to it */

static cJSON *add_ref(cJSON *parent, const char *key, const char *type, const char *digest, uint64_t size)
{
	cJSON *ref = key ? cJSON_AddObjectToObject(parent, key) : cJSON_CreateObject();
	char text[OCI_DIGEST + 8];

	if (!key && ref && !cJSON_AddItemToArray(parent, ref)) {
		cJSON_Delete(ref);
		ref = NULL;
	}
	snprintf(text, sizeof(text), "sha256:%s", digest);
	if (ref && cJSON_AddStringToObject(ref, "mediaType", type) &&
	    cJSON_AddStringToObject(ref, "digest", text) &&
	    cJSON_AddNumberToObject(ref, "size", (double)size))
		return ref;
	return NULL;
}

int oci_write_manifest(const struct oci_image *image, const struct oci_document *config,
		       struct oci_document *ret, struct err *err)
{
	cJSON *root = cJSON_CreateObject();
	const bool ok =
		root && cJSON_AddNumberToObject(root, "schemaVersion", 2) &&
		cJSON_AddStringToObject(root, "mediaType", manifest_type) &&
		add_ref(root, "config", config_type, config->digest, strlen(config->text)) &&
		add_ref(cJSON_AddArrayToObject(root, "layers"), NULL, layer_type, image->digest, image->size);

	return finish(root, ok, ret, err);
}

static bool add_name(cJSON *ref)
{
	cJSON *notes = ref ? cJSON_AddObjectToObject(ref, "annotations") : NULL;

	return notes && cJSON_AddStringToObject(notes, "org.opencontainers.image.ref.name", "latest");
}

int oci_write_index(const struct oci_document *manifest, struct oci_document *ret, struct err *err)
{
	cJSON *root = cJSON_CreateObject();
	const bool ok = root && cJSON_AddNumberToObject(root, "schemaVersion", 2) &&
			add_name(add_ref(cJSON_AddArrayToObject(root, "manifests"), NULL, manifest_type,
					 manifest->digest, strlen(manifest->text)));

	return finish(root, ok, ret, err);
}

int oci_write_docker(const struct oci_image *image, const struct oci_document *config,
		     struct oci_document *ret, struct err *err)
{
	cJSON *root = cJSON_CreateArray(), *item = cJSON_CreateObject();
	char file[OCI_DIGEST + 8], layer[OCI_DIGEST + 8], tag[128];
	bool ok = root && item && cJSON_AddItemToArray(root, item);

	if (!ok)
		cJSON_Delete(item);
	snprintf(file, sizeof(file), "%s.json", config->digest);
	snprintf(layer, sizeof(layer), "%s.tar", image->digest);
	snprintf(tag, sizeof(tag), "%s:latest", image->name);
	ok = ok && cJSON_AddStringToObject(item, "Config", file) &&
	     (!*image->name || append(cJSON_AddArrayToObject(item, "RepoTags"), tag)) &&
	     append(cJSON_AddArrayToObject(item, "Layers"), layer);
	return finish(root, ok, ret, err);
}
