/* SPDX-License-Identifier: MIT */
/* oci.c - the documents of container images */
#include "snap/image/oci.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

#include "snap/image_config.h"

static cJSON *parse(const void *json, size_t n, const char *what, struct err *err)
{
	cJSON *root = n <= OCI_DOCUMENT_MAX ? cJSON_ParseWithLength(json, n) : NULL;

	if (!cJSON_IsObject(root) && !cJSON_IsArray(root)) {
		cJSON_Delete(root);
		err_set(err, -EINVAL, "%s is not what it should be: no JSON", what);
		return NULL;
	}
	return root;
}

static const char *get_text(const cJSON *object, const char *key)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);

	return cJSON_IsString(item) ? item->valuestring : NULL;
}

/* "sha256:HEX"; other algorithms are not spoken here. */
static int get_digest(const char *text, char ret[OCI_DIGEST + 1], struct err *err)
{
	static const char prefix[] = "sha256:";
	const char *hex = text && !strncmp(text, prefix, strlen(prefix)) ? text + strlen(prefix) : NULL;

	if (!hex || strlen(hex) != OCI_DIGEST || strspn(hex, "0123456789abcdef") != OCI_DIGEST)
		return err_set(err, -EINVAL, "\"%.80s\" is not the SHA-256 of anything", text ? text : "");
	memcpy(ret, hex, OCI_DIGEST + 1);
	return 0;
}

static bool ends_with(const char *text, const char *end)
{
	const size_t n = strlen(text), m = strlen(end);

	return n >= m && !strcmp(text + n - m, end);
}

static const char index_type[] = "application/vnd.oci.image.index.v1+json",
		  index_docker[] = "application/vnd.docker.distribution.manifest.list.v2+json";

static int get_ref(const cJSON *item, struct oci_ref *ret, struct err *err)
{
	const cJSON *size = cJSON_GetObjectItemCaseSensitive(item, "size");
	const char *type = get_text(item, "mediaType");
	int rc = get_digest(get_text(item, "digest"), ret->digest, err);

	if (rc)
		return rc;
	if (!cJSON_IsNumber(size) || size->valuedouble < 0 || size->valuedouble > (double)(1ull << 50))
		return err_set(err, -EINVAL, "%.20s...: no size is given", ret->digest);
	ret->size = (uint64_t)size->valuedouble;
	ret->is_index = type && (!strcmp(type, index_type) || !strcmp(type, index_docker));
	snprintf(ret->name, sizeof(ret->name), "blobs/sha256/%s", ret->digest);
	return 0;
}

/* ---- an index */

/* Its name: NAME, or NAME:TAG as docker and containerd write it. */
static bool has_tag(const cJSON *item, const char *tag)
{
	static const char *const keys[] = { "org.opencontainers.image.ref.name", "io.containerd.image.name" };
	const cJSON *notes = cJSON_GetObjectItemCaseSensitive(item, "annotations");
	const char *name, *colon;
	size_t i;

	for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		name = get_text(notes, keys[i]);
		colon = name ? strrchr(name, ':') : NULL;
		if (name && (!strcmp(name, tag) || (colon && !strcmp(colon + 1, tag))))
			return true;
	}
	return false;
}

/* An entry that says of no platform is for all. */
static bool is_ours(const cJSON *item)
{
	const cJSON *platform = cJSON_GetObjectItemCaseSensitive(item, "platform");
	const char *arch = get_text(platform, "architecture"), *os = get_text(platform, "os");

	return (!arch || !strcmp(arch, "amd64")) && (!os || !strcmp(os, "linux"));
}

static int several(const cJSON *list, struct err *err)
{
	const cJSON *item;
	char names[160] = "";
	const char *name;
	size_t n = 0;

	cJSON_ArrayForEach(item, list)
	{
		name = get_text(cJSON_GetObjectItemCaseSensitive(item, "annotations"),
				"org.opencontainers.image.ref.name");
		if (name && n < sizeof(names) - 1)
			n += (size_t)snprintf(names + n, sizeof(names) - n, " %.40s", name);
	}
	return err_set(err, -EINVAL, "it has several images; say which one with :TAG%s%s",
		       *names ? ", of" : "", names);
}

static int choose(const cJSON *root, const char *tag, struct oci_ref *ret, struct err *err)
{
	const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "manifests"), *item, *found = NULL;
	unsigned matches = 0;

	if (!cJSON_IsArray(list))
		return err_set(err, -EINVAL, "the index lists no manifests");
	cJSON_ArrayForEach(item, list)
	{
		if (!is_ours(item) || (*tag && !has_tag(item, tag)))
			continue;
		found = item;
		matches++;
	}
	if (!matches)
		return *tag ? err_set(err, -ENOENT, "there is no image %.60s for linux/amd64 in it", tag)
			    : err_set(err, -ENOENT, "there is no image for linux/amd64 in it");
	return matches > 1 ? several(list, err) : get_ref(found, ret, err);
}

int oci_index(const void *json, size_t n, const char *tag, struct oci_ref *ret, struct err *err)
{
	cJSON *root = parse(json, n, "the index", err);
	int rc;

	if (!root)
		return -EINVAL;
	*ret = (struct oci_ref){ 0 };
	rc = choose(root, tag, ret, err);
	cJSON_Delete(root);
	return rc;
}

/* ---- a manifest */

/* Layers that are no archives (helm charts, attestations, encrypted ones) make no filesystem. */
static int check_layer_type(const char *type, struct err *err)
{
	static const char *const ends[] = { ".tar", ".tar+gzip", ".tar+zstd", ".tar.gzip", ".tar.zstd" };
	size_t i;

	for (i = 0; type && i < sizeof(ends) / sizeof(ends[0]); i++)
		if (ends_with(type, ends[i]))
			return 0;
	return err_set(err, -EINVAL, "a layer of type \"%.80s\" is none of a container image",
		       type ? type : "");
}

static int get_layers(const cJSON *list, struct oci_manifest *ret, struct err *err)
{
	const cJSON *item;
	int rc = 0;

	if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) > OCI_LAYERS_MAX)
		return err_set(err, -EINVAL, "the manifest has no layers, or more than %d", OCI_LAYERS_MAX);
	cJSON_ArrayForEach(item, list)
	{
		if (!rc)
			rc = check_layer_type(get_text(item, "mediaType"), err);
		if (!rc)
			rc = get_ref(item, &ret->layers[ret->nlayers++], err);
	}
	return rc;
}

int oci_manifest(const void *json, size_t n, struct oci_manifest *ret, struct err *err)
{
	cJSON *root = parse(json, n, "the manifest", err);
	int rc;

	if (!root)
		return -EINVAL;
	*ret = (struct oci_manifest){ 0 };
	rc = get_ref(cJSON_GetObjectItemCaseSensitive(root, "config"), &ret->config, err);
	if (!rc)
		rc = get_layers(cJSON_GetObjectItemCaseSensitive(root, "layers"), ret, err);
	cJSON_Delete(root);
	return rc;
}

/* ---- a config */

static int put_list(struct buf *text, const char *key, const cJSON *list, struct err *err)
{
	const cJSON *item;

	if (list && !cJSON_IsNull(list) && !cJSON_IsArray(list))
		return err_set(err, -EINVAL, "the image's %s is no list", key);
	cJSON_ArrayForEach(item, list)
	{
		if (!cJSON_IsString(item))
			return err_set(err, -EINVAL, "the image's %s has what is no text", key);
		image_config_add(text, key, item->valuestring);
	}
	return 0;
}

static int put_config(const cJSON *config, struct buf *text, struct err *err)
{
	static const char *const texts[][2] = { { "WorkingDir", "workdir" }, { "User", "user" } };
	static const char *const lists[][2] = { { "Env", "env" },
						{ "Entrypoint", "entrypoint" },
						{ "Cmd", "cmd" } };
	const char *value;
	int rc = 0;
	size_t i;

	for (i = 0; !rc && i < sizeof(lists) / sizeof(lists[0]); i++)
		rc = put_list(text, lists[i][1], cJSON_GetObjectItemCaseSensitive(config, lists[i][0]), err);
	for (i = 0; !rc && i < sizeof(texts) / sizeof(texts[0]); i++) {
		value = get_text(config, texts[i][0]);
		if (value && *value)
			image_config_add(text, texts[i][1], value);
	}
	return rc ? rc : image_config_check(text, err);
}

static int get_diffs(const cJSON *rootfs, struct oci_config *ret, struct err *err)
{
	const cJSON *list = cJSON_GetObjectItemCaseSensitive(rootfs, "diff_ids"), *item;
	int rc = 0;

	if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) > OCI_LAYERS_MAX)
		return err_set(err, -EINVAL, "the image's config does not list its layers");
	cJSON_ArrayForEach(item, list)
	{
		if (!rc)
			rc = get_digest(cJSON_IsString(item) ? item->valuestring : NULL,
					ret->diff_ids[ret->ndiffs++], err);
	}
	return rc;
}

int oci_config(const void *json, size_t n, struct oci_config *ret, struct err *err)
{
	cJSON *root = parse(json, n, "the image's config", err);
	const char *arch = get_text(root, "architecture"), *os = get_text(root, "os");
	int rc;

	*ret = (struct oci_config){ 0 };
	if (!root)
		return -EINVAL;
	if ((arch && *arch && strcmp(arch, "amd64") != 0) || (os && *os && strcmp(os, "linux") != 0))
		rc = err_set(err, -EINVAL, "the image is for %.40s/%.40s, and machines are linux/amd64",
			     os ? os : "linux", arch ? arch : "?");
	else
		rc = get_diffs(cJSON_GetObjectItemCaseSensitive(root, "rootfs"), ret, err);
	if (!rc)
		rc = put_config(cJSON_GetObjectItemCaseSensitive(root, "config"), &ret->text, err);
	cJSON_Delete(root);
	return rc;
}

/* ---- a docker archive */

static int set_name(struct oci_ref *ref, const cJSON *item, struct err *err)
{
	const char *name = cJSON_IsString(item) ? item->valuestring : NULL;

	if (!name || !*name || strlen(name) > OCI_NAME_MAX)
		return err_set(err, -EINVAL, "manifest.json names a file that cannot be");
	*ref = (struct oci_ref){ .size = UINT64_MAX };
	snprintf(ref->name, sizeof(ref->name), "%s", name);
	return 0;
}

static bool docker_tag(const cJSON *item, const char *tag)
{
	const cJSON *name;
	const char *colon;

	cJSON_ArrayForEach(name, cJSON_GetObjectItemCaseSensitive(item, "RepoTags"))
	{
		colon = cJSON_IsString(name) ? strrchr(name->valuestring, ':') : NULL;
		if (colon && (!strcmp(colon + 1, tag) || !strcmp(name->valuestring, tag)))
			return true;
	}
	return false;
}

static int docker_choose(const cJSON *root, const char *tag, struct oci_manifest *ret, struct err *err)
{
	const cJSON *item, *found = NULL, *layers, *layer;
	unsigned matches = 0;
	int rc;

	cJSON_ArrayForEach(item, root)
	{
		if (!*tag || docker_tag(item, tag)) {
			found = item;
			matches++;
		}
	}
	if (matches != 1)
		return matches ? err_set(err, -EINVAL, "it has several images; say which one with :TAG")
			       : err_set(err, -ENOENT, "there is no image %.60s in it", tag);
	layers = cJSON_GetObjectItemCaseSensitive(found, "Layers");
	if (!cJSON_IsArray(layers) || cJSON_GetArraySize(layers) > OCI_LAYERS_MAX)
		return err_set(err, -EINVAL, "manifest.json has no layers, or more than %d", OCI_LAYERS_MAX);
	rc = set_name(&ret->config, cJSON_GetObjectItemCaseSensitive(found, "Config"), err);
	cJSON_ArrayForEach(layer, layers)
	{
		if (!rc)
			rc = set_name(&ret->layers[ret->nlayers++], layer, err);
	}
	return rc;
}

int oci_docker(const void *json, size_t n, const char *tag, struct oci_manifest *ret, struct err *err)
{
	cJSON *root = parse(json, n, "manifest.json", err);
	int rc;

	if (!root)
		return -EINVAL;
	*ret = (struct oci_manifest){ 0 };
	rc = docker_choose(root, tag, ret, err);
	cJSON_Delete(root);
	return rc;
}
