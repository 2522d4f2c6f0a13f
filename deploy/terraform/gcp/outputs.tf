output "cluster" {
  value = google_container_cluster.main.name
}

output "secrets" {
  description = "what becomes the Secrets acordo-raft and acordo-backends"
  value       = [for secret in google_secret_manager_secret.acordo : secret.id]
}

output "backups" {
  value = google_storage_bucket.backups.url
}

output "backup_account" {
  value = google_service_account.backup.email
}
