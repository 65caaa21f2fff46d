function slurm_job_submit(job, partitions, uid)
  if job.account == "closed" then
    slurm.log_user("the project closed has ended")
    return slurm.ERROR
  end
  if job.partition == nil then job.partition = "normal" end
  return slurm.SUCCESS
end

function slurm_job_modify(job, record, partitions, uid) return slurm.SUCCESS end

return slurm.SUCCESS
